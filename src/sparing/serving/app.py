"""What a small HTTP service needs around its routes: token, limits, metrics, drain.

A service is a few Starlette routes whose handlers hand single items to a `Batcher`, which runs them in
batches in a worker thread. `make_app` adds what must not be forgotten (bounded bodies, the bearer token,
`/healthz`, `/metrics`, errors as JSON), and `serve` runs it on uvicorn until SIGTERM, answering what it has
accepted. This module needs the extra `serve`.
"""

import asyncio
import errno
import hmac
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

from sparing.errors import InputError, MissingExtraError
from sparing.serving.batching import Batcher, OverloadedError
from sparing.serving.process import ModelProcess, kill_children

try:
    import uvicorn
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as missing:
    raise MissingExtraError(str(missing.name), "serve", "Serving over HTTP") from missing

LOOPBACK = ("127.0.0.1", "::1", "localhost")
OPEN_PATHS = ("/healthz",)
"""Paths that answer without the token."""


class Metrics:
    """The counts and times of one service, in Prometheus' text format at `/metrics`.

    Attributes:
        registry: where a service registers further metrics of its own.
        requests: `http_requests_total` by path and status.
        seconds: `http_request_seconds` by path.
        batch_sizes: `batch_size`, for a `Batcher`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests", "Answered requests", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "http_request_seconds", "Time from request to answer", ["path"], registry=self.registry
        )
        self.batch_sizes = Histogram(
            "batch_size",
            "Items per batch",
            buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256],
            registry=self.registry,
        )

    def render(self) -> bytes:
        """Write all of them in Prometheus' text format."""
        return generate_latest(self.registry)


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
        body_bytes: the largest body; a larger one is refused before it is read if it says so, or while it is.
        body_seconds: how long the body may take to arrive.
    """

    body_bytes: int = 1_000_000
    body_seconds: float = 10.0


def make_app(
    routes: Sequence[Route],
    *,
    metrics: Metrics,
    limits: Limits | None = None,
    token: str | None = None,
    batchers: Iterable[Batcher[Any, Any]] = (),
    processes: Iterable[ModelProcess[Any, Any]] = (),
) -> Starlette:
    """Make an application of routes, with bounded bodies, the token, `/healthz`, `/metrics` and JSON errors.

    A handler reads its body with `await request.body()`. What it raises becomes the answer: `InputError` 400,
    `OverloadedError` 503, anything else 500 without details.

    Args:
        routes: the service's own routes.
        metrics: where requests are counted.
        limits: what a request may take.
        token: what the header `Authorization: Bearer ...` must carry, but for `/healthz`; None for no check.
        batchers: closed on shutdown, after the last request was answered. While a batch takes longer than it
            may, `/healthz` answers 503.
        processes: ended on shutdown, after the batchers. While one of them is not ready, `/healthz` answers
            503.

    Returns:
        The ASGI application.
    """
    batchers, processes = list(batchers), list(processes)

    async def healthz(_: Request) -> Response:
        if any(batcher.stuck for batcher in batchers):
            return PlainTextResponse("a batch takes longer than it may\n", 503)
        if not all(process.ready for process in processes):
            return PlainTextResponse("the model is being started again\n", 503)
        return PlainTextResponse("ok\n")

    async def render(_: Request) -> Response:
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def refuse(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=400)

    async def overloaded(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=503, headers={"retry-after": "1"})

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
        return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # for the metrics: nobody reads it

    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"internal error ({type(error).__name__})"}, status_code=500)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        for batcher in batchers:
            await batcher.close()
        for process in processes:
            process.stop()

    all_routes = [*routes, Route("/healthz", healthz), Route("/metrics", render)]
    return Starlette(
        routes=all_routes,
        lifespan=lifespan,
        middleware=[
            Middleware(
                _Guard,
                paths=frozenset(route.path for route in all_routes),
                metrics=metrics,
                limits=limits or Limits(),
                token=token,
            )
        ],
        exception_handlers={
            InputError: refuse,
            OverloadedError: overloaded,
            HTTPException: http_error,
            ClientDisconnect: gone,
            Exception: failed,
        },
    )


class _Guard:
    """Checks the token and the size of the body, and counts every request."""

    def __init__(
        self, app: ASGIApp, *, paths: frozenset[str], metrics: Metrics, limits: Limits, token: str | None
    ) -> None:
        self.app, self.paths, self.metrics, self.limits = app, paths, metrics, limits
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Unknown paths share one label, so that a scanner cannot fill the memory with labels.
        path = scope["path"] if scope["path"] in self.paths else "other"
        started = perf_counter()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, counted)
            else:
                await self.app(scope, self._bounded(receive), counted)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(perf_counter() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if self.expected is None and not _from_here(scope, headers.get(b"host", b"")):
            return JSONResponse(
                {"error": "on loopback, the Host header must be localhost, 127.0.0.1 or [::1]"},
                403,
            )
        if self.expected is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                return JSONResponse(
                    {"error": "missing or wrong bearer token"}, 401, headers={"www-authenticate": "Bearer"}
                )
        length = headers.get(b"content-length", b"0")
        # isdigit before int(): the header may be anything, of any length.
        if not length.isdigit() or len(length) > 18 or int(length) > self.limits.body_bytes:
            return JSONResponse({"error": self._too_large()}, 413)
        return None

    def _bounded(self, receive: Receive) -> Receive:
        deadline = asyncio.get_running_loop().time() + self.limits.body_seconds
        seen, complete = 0, False

        async def bounded() -> Message:
            nonlocal seen, complete
            if complete:  # what follows the body is the client hanging up, which may take as long as it likes
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body took over {self.limits.body_seconds} s") from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if seen > self.limits.body_bytes:
                    raise HTTPException(413, self._too_large())
            return message

        return bounded

    def _too_large(self) -> str:
        return f"the body may have at most {self.limits.body_bytes} bytes"


def _from_here(scope: Scope, host: bytes) -> bool:
    """Return whether a request names this machine, as far as it comes by way of the loopback address.

    A web page can point a name of its own at 127.0.0.1, and then read what a service there answers.
    """
    address = (scope.get("server") or ("",))[0]
    if not (address.startswith("127.") or address == "::1"):
        return True
    name = host.decode("latin-1").lower()
    name = name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]
    return name.strip("[]") in LOOPBACK or name.startswith("127.")


def read_token(path: str | Path) -> str:
    """Read a bearer token from a file, without the white space around it.

    Args:
        path: a text file that holds nothing else.

    Returns:
        The token: 1 to 4,096 printable ASCII characters without spaces.

    Raises:
        InputError: the file cannot be read, is empty, or holds something else.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(4097)
    except OSError as error:
        raise InputError(f"token file {path}: {error.strerror}") from error
    token = raw.decode("latin-1").strip()
    if not (0 < len(token) <= 4096 and token.isascii() and token.isprintable() and " " not in token):
        raise InputError(f"token file {path}: expected one token of printable ASCII without spaces")
    return token


_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
)

RESERVED_FILES = 192
"""Files that the service needs beside its connections: its own, and connections that are being closed."""

BACKLOG = 128

HARD_STOP_SECONDS = 5.0
"""How long after draining should have ended the process ends, whatever runs."""

ACCEPT_LOG_SECONDS = 10.0
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

HEADER_SECONDS = 10.0
"""How long a connection may take to send a request's line and headers."""


class _Protocol(H11Protocol):
    """HTTP/1.1 with limits: on the time that headers take, and on how many connections are open.

    uvicorn itself would wait for headers for ever. Beyond the limit, a connection that waits for a request
    makes room; if none does, the new one is answered 503.
    """

    most = 1024
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.most:
            self._make_room()

    def _make_room(self) -> None:
        # Those that are closing stay in the set, and keep their file, until the loop comes round.
        others = [each for each in self.connections if isinstance(each, _Protocol) and each is not self]
        others = [each for each in others if not each.transport.is_closing()]
        waiting = [each for each in others if each._deadline is not None]
        if len(others) < self.most:
            return
        if waiting:
            min(waiting, key=_Protocol._when).transport.abort()
        else:
            self.transport.write(_FULL)
            self.transport.close()

    def _when(self) -> float:
        return 0.0 if self._deadline is None else self._deadline.when()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        # A byte now and then must not put the deadline off: it is set when the wait for a request begins.
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Args:
        host: name or address.
        port: from 0 (any that is free) to 65535.

    Returns:
        The listening socket. What is accepted from it sends small answers at once (TCP_NODELAY). Asyncio sets
        that on sockets of its own making only, and without it a client waits 40 ms for the end of an answer.

    Raises:
        InputError: the address is taken or invalid.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port}: {error}") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(
    app: Starlette,
    *,
    host: str = "127.0.0.1",
    port: int,
    token: str | None,
    drain_seconds: int = 30,
    max_connections: int = 1024,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; then stop accepting, answer what was accepted, and return.

    Where that takes too long, or at a second signal, the process ends with code 1.

    Args:
        app: what `make_app` made.
        host: the address to listen on; other than loopback only with a token.
        port: the port.
        token: the token that `app` checks, or None.
        drain_seconds: how long accepted requests may take after the signal.
        max_connections: how many connections are open at once, fewer where the system allows fewer files. A
            further one takes the place of one that waits for a request, or is answered 503.
        ready: called once the address is listened on.

    Raises:
        InputError: the address is open to others and there is no token, or it cannot be listened on.
    """
    if host not in LOOPBACK and token is None:
        raise InputError(f"serving on {host} opens the model to others: give a token, or use 127.0.0.1")
    most = connection_limit(max_connections)
    config = uvicorn.Config(
        app,
        http=type("_Limited", (_Protocol,), {"most": most}),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        # asyncio tries so many times to accept, and logs each failure, before it looks at anything else.
        backlog=BACKLOG,
        timeout_graceful_shutdown=drain_seconds,
    )
    listener = listen(host, port)
    # uvicorn raises SIGTERM again once it has drained; a service that has answered everything has not failed.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with listener:
        ready()
        _Server(config, drain_seconds + HARD_STOP_SECONDS).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Stops hard where draining does not end it, and at the second signal; logs failures to accept rarely."""

    def __init__(self, config: uvicorn.Config, stop_seconds: float) -> None:
        super().__init__(config)
        self._stop_seconds = stop_seconds
        self._asked_to_stop = False
        self._logged = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked_to_stop:
            _stop_hard("a second signal")
        self._asked_to_stop = True
        timer = threading.Timer(self._stop_seconds, _stop_hard, ["draining did not end"])
        timer.daemon = True
        timer.start()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._log)
        await super().startup(sockets)

    def _log(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _NO_MORE:
            if loop.time() - self._logged < ACCEPT_LOG_SECONDS and self._logged:
                return
            self._logged = loop.time()
        loop.default_exception_handler(context)


def _stop_hard(why: str) -> None:
    sys.stderr.write(f"stopped at once: {why}\n")
    sys.stderr.flush()
    kill_children()
    os._exit(1)


def connection_limit(wanted: int) -> int:
    """Return how many connections may be open, given how many files this process may have open.

    The soft limit is raised as far as the hard one allows.

    Args:
        wanted: how many are asked for.

    Returns:
        As many, or fewer: at least 16.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < wanted + RESERVED_FILES:
        raised = wanted + RESERVED_FILES
        raised = raised if hard == resource.RLIM_INFINITY else min(hard, raised)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return max(min(wanted, soft - RESERVED_FILES), 16)
