"""The edge's HTTP client: bounded in time, tries and bytes, and never without an answer."""

import asyncio
import random
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError, MissingExtraError
from sparing.offload.answers import Answer
from sparing.offload.edge import Request, pool

try:
    import httpx
except ImportError as missing:
    raise MissingExtraError("httpx", "serve", "Sending to a server") from missing

MAX_REPLY = 1 << 20
"""Bytes of a reply; a distribution over 262,144 classes."""


@dataclass(frozen=True)
class Reply:
    """The outcome of sending a payload.

    Attributes:
        probs: shape (C,); None when the server did not answer as it should.
        error: why not; empty when it did.
        tries: HTTP requests sent.
        wire_bytes: their bytes, headers included; TCP, TLS and IP are not counted.
        seconds: from the first try to the answer or to giving up.
        server_seconds: of those, as the server reported.
    """

    probs: npt.NDArray[np.float32] | None
    error: str
    tries: int
    wire_bytes: int
    seconds: float
    server_seconds: float = 0.0


class _RetryableError(Exception):
    """Another try may do better."""


class _RefusedError(Exception):
    """Another try would meet the same answer."""


class Client:
    """Sends payloads to one server. Use it as an asynchronous context manager.

    Args:
        url: of the server, for example "http://127.0.0.1:8081".
        token: the bearer token; None to send no token.
        timeout: seconds for a request with all its tries and the wait for its turn, after which the
            edge's answer stands.
        tries: HTTP requests per payload at most; a try is repeated when the server is not reached, is
            overloaded (503) or fails (5xx), after a random pause that may double each time.
        pause: seconds, the longest first pause.
        concurrency: requests that are under way at once.
        seed: of the pauses.
        transport: in place of the network, for tests and simulations.

    Raises:
        InputError: not an HTTP address, or a number out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 2.0,
        tries: int = 3,
        pause: float = 0.05,
        concurrency: int = 8,
        seed: int = 0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        try:
            base = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InputError(f"server {url!r}: {error}") from error
        if base.scheme not in ("http", "https") or not base.host:
            raise InputError(f"server {url!r}: expected an address such as http://127.0.0.1:8081")
        if not (0 < timeout < float("inf") and tries >= 1 and concurrency >= 1 and pause >= 0):
            raise InputError("a client needs a timeout above 0, and 1 or more tries and requests at once")
        self.base = str(base).rstrip("/")
        self.timeout, self.tries, self.pause = timeout, tries, pause
        # Not httpx's usual headers: on a thin uplink they would outweigh the payload.
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._random = random.Random(seed)  # noqa: S311 - jitter
        self._slots = asyncio.Semaphore(concurrency)
        limits = httpx.Limits(max_connections=concurrency)
        # No proxy and no .netrc from the environment: payloads and the token go to the server that was named.
        self._http = httpx.AsyncClient(timeout=timeout, limits=limits, transport=transport, trust_env=False)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def describe(self) -> tuple[dict[str, Any] | None, str]:
        """Ask the server what has to be agreed on (`wire.agreement.check_agreement`).

        Returns:
            Its answer, or None and what went wrong.
        """
        try:
            async with asyncio.timeout(self.timeout):
                body, _ = await self._exchange(
                    httpx.Request("GET", f"{self.base}/v1/model", headers=self._headers)
                )
            described = httpx.Response(200, content=body).json()
        except (_RetryableError, _RefusedError) as error:
            return None, str(error)
        except TimeoutError:
            return None, f"no answer within {self.timeout:g} s"
        except ValueError:
            described = None
        if not isinstance(described, dict):
            return None, "no `sparing offload serve` answers there"
        return described, ""

    async def ask(self, payload: bytes, classes: int, agreed: str) -> Reply:
        """Send a payload; whatever happens comes back as a reply within the timeout.

        Args:
            payload: what `Scheme.encode` made.
            classes: C, how many probabilities the answer must have.
            agreed: what the server must say that it read the payload by (`agreement_digest`);
                the answer of a server with another geometry or codec would be about another image.

        Returns:
            The server's distribution, or why it is missing.
        """
        started = perf_counter()
        attempts, tries, wire, error = 0, 0, 0, ""
        try:
            # The wait for a slot counts too: whoever asks has been promised an answer in time.
            async with asyncio.timeout(self.timeout), self._slots:
                while True:
                    request = httpx.Request(
                        "POST", f"{self.base}/v1/answer", headers=self._headers, content=payload
                    )
                    attempts, tries = attempts + 1, tries + 1
                    wire += _wire_bytes(request, len(payload))
                    try:
                        body, headers = await self._exchange(request)
                        if headers.get("x-agreement") != agreed:
                            raise _RefusedError("edge and server differ in geometry, codec or version")
                        probs = _distribution(body, classes)
                        seconds = _seconds(headers.get("x-server-seconds", ""))
                        return Reply(
                            probs=probs,
                            error="",
                            tries=tries,
                            wire_bytes=wire,
                            seconds=perf_counter() - started,
                            server_seconds=seconds,
                        )
                    except _RetryableError as problem:
                        error = str(problem)
                        if isinstance(problem.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
                            tries -= 1  # without a connection nothing was sent
                            wire -= _wire_bytes(request, len(payload))
                        if attempts == self.tries:
                            break
                    await asyncio.sleep(self._random.uniform(0, self.pause * 2 ** (attempts - 1)))
        except _RefusedError as problem:
            error = str(problem)
        except TimeoutError:
            error = f"no answer within {self.timeout:g} s" + (f" ({error})" if error else "")
        return Reply(None, error, tries, wire, perf_counter() - started)

    async def answer(self, request: Request, edge_weight: float = 0.0) -> Answer:
        """Answer a request: by the server if it is to and does so in time, else by the edge.

        Args:
            request: what `edge.prepare` made.
            edge_weight: see `edge.pool`.

        Returns:
            The answer and its account; never an error of the server's or the network's.
        """
        if request.payload is None:
            return Answer(
                request.probs,
                "edge",
                request.why,
                offloaded=request.offloaded,
                edge_seconds=request.seconds,
            )
        reply = await self.ask(request.payload, len(request.probs), request.agreed)
        probs, by = request.probs, "edge"
        if reply.probs is not None:
            probs, by = pool(reply.probs[None], request.probs[None], edge_weight)[0], "server"
        return Answer(
            probs,
            by,  # type: ignore[arg-type]
            reply.error,
            offloaded=True,
            payload_bits=8 * len(request.payload),
            wire_bytes=reply.wire_bytes,
            tries=reply.tries,
            edge_seconds=request.seconds,
            link_seconds=max(reply.seconds - reply.server_seconds, 0.0),
            server_seconds=reply.server_seconds,
        )

    async def _exchange(self, request: httpx.Request) -> tuple[bytes, httpx.Headers]:
        try:
            response = await self._http.send(request, stream=True)
            try:
                body = b""
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_REPLY:
                        raise _RefusedError(f"the server's reply has over {MAX_REPLY} bytes")
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise _RetryableError(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            ) from error
        if response.status_code == 200:
            return body, response.headers
        problem = f"the server answered {response.status_code}"
        if response.status_code >= 500:
            raise _RetryableError(problem)
        raise _RefusedError(problem)


def _distribution(body: bytes, classes: int) -> npt.NDArray[np.float32]:
    if len(body) != 4 * classes:
        raise _RefusedError(f"the server sent {len(body) // 4} probabilities, not the edge's {classes}")
    probs = np.frombuffer(body, dtype="<f4").astype(np.float32)
    if not (np.isfinite(probs).all() and (probs >= 0).all() and abs(float(probs.sum()) - 1) < 0.01):
        raise _RefusedError("the server sent numbers that are not a distribution")
    return probs


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if isfinite(seconds) and seconds >= 0 else 0.0


def _wire_bytes(request: httpx.Request, body: int) -> int:
    """Count the bytes of an HTTP/1.1 request: its line, its headers and its body."""
    line = len(request.method) + 1 + len(request.url.raw_path) + len(" HTTP/1.1\r\n")
    headers = sum(len(name) + len(value) + len(": \r\n") for name, value in request.headers.raw)
    return line + headers + len("\r\n") + body
