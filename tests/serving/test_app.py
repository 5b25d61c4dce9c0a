import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import JSONResponse
from starlette.routing import Route

from sparing.errors import InputError
from sparing.serving.app import (
    Limits,
    Metrics,
    _Protocol,
    listen,
    make_app,
    read_token,
    serve,
)
from sparing.serving.batching import Batcher, OverloadedError


def double(items):
    return [2 * item for item in items]


def make_service(*, token=None, limits=None, run=double):
    metrics = Metrics()
    batcher = Batcher(run, max_batch=8, max_wait=0.001, max_queue=4, sizes=metrics.batch_sizes)

    async def handle(request):
        body = await request.body()
        if not body.isdigit():
            raise InputError("expected digits")
        return JSONResponse({"result": await batcher.submit(int(body))})

    routes = [Route("/double", handle, methods=["POST"])]
    return make_app(routes, metrics=metrics, token=token, limits=limits, batchers=[batcher])


def ask(app, *requests):
    async def main():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            return [await client.request(method, path, **extra) for method, path, extra in requests]

    return asyncio.run(main())


def test_answers_and_errors_have_their_status():
    def run(items):
        if 13 in items:
            raise KeyError("secret detail")
        return double(items)

    answers = ask(
        make_service(run=run),
        ("POST", "/double", {"content": b"21"}),
        ("POST", "/double", {"content": b"x"}),
        ("POST", "/double", {"content": b"13"}),
        ("POST", "/double", {"content": b"1"}),
        ("GET", "/double", {}),
        ("GET", "/nowhere", {}),
        ("GET", "/healthz", {}),
    )
    assert [answer.status_code for answer in answers] == [200, 400, 500, 200, 405, 404, 200]
    assert answers[0].json() == {"result": 42}
    assert answers[1].json() == {"error": "expected digits"}
    assert "secret" not in answers[2].text


def test_overload_is_answered_503_and_says_when_to_come_back():
    def run(items):
        raise OverloadedError("full")

    (answer,) = ask(make_service(run=run), ("POST", "/double", {"content": b"1"}))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_the_token_guards_everything_but_the_health_check():
    def bearer(token):
        return {"headers": {"authorization": f"Bearer {token}"}}

    answers = ask(
        make_service(token="s3cret"),  # noqa: S106
        ("POST", "/double", {"content": b"1"}),
        ("POST", "/double", {"content": b"1", **bearer("wrong")}),
        ("POST", "/double", {"content": b"1", **bearer("s3cret")}),
        ("GET", "/metrics", {}),
        ("GET", "/metrics", bearer("s3cret")),
        ("GET", "/healthz", {}),
    )
    assert [answer.status_code for answer in answers] == [401, 401, 200, 401, 200, 200]


async def _chunks(count):
    for _ in range(count):
        yield b"1" * 10


def test_a_large_body_is_refused_by_its_length_and_while_it_is_read():
    limits = Limits(body_bytes=100)
    answers = ask(
        make_service(limits=limits),
        ("POST", "/double", {"content": b"1" * 100}),
        ("POST", "/double", {"content": b"1" * 101}),
        ("POST", "/double", {"content": _chunks(10)}),  # chunked: no length is announced
        ("POST", "/double", {"content": _chunks(11)}),
        ("POST", "/double", {"content": b"1", "headers": {"content-length": "-1"}}),
    )
    assert [answer.status_code for answer in answers] == [200, 413, 200, 413, 413]
    assert "at most 100 bytes" in answers[1].text


def test_a_body_that_dawdles_is_cut_off():
    async def slow():
        yield b"1"
        await asyncio.sleep(5)
        yield b"1"

    started = time.perf_counter()
    (answer,) = ask(make_service(limits=Limits(body_seconds=0.05)), ("POST", "/double", {"content": slow()}))
    assert answer.status_code == 408
    assert time.perf_counter() - started < 4


def test_a_client_that_hangs_up_within_its_body_is_no_error():
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/double", "headers": [], "query_string": b""}
    asyncio.run(make_service()(scope, receive, send))  # raises nothing that a server would log
    assert sent[0]["status"] == 499


def test_metrics_are_prometheus_text_and_count_requests_by_path_and_status():
    *_, answer = ask(
        make_service(),
        ("POST", "/double", {"content": b"1"}),
        ("POST", "/double", {"content": b"2"}),
        ("POST", "/double", {"content": b"x"}),
        ("GET", "/random/one", {}),
        ("GET", "/random/two", {}),
        ("GET", "/metrics", {}),
    )
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    counts = {
        (sample.labels["path"], sample.labels["status"]): sample.value
        for sample in samples
        if sample.name == "http_requests_total"
    }
    assert counts == {("/double", "200"): 2, ("/double", "400"): 1, ("other", "404"): 2}
    assert next(s.value for s in samples if s.name == "batch_size_count") == 2


def test_tokens_are_read_from_files_and_checked(tmp_path):
    path = tmp_path / "token"
    path.write_text("  abc123\n")
    assert read_token(path) == "abc123"
    for bad in ["", "\n", "two words", "naïve", "x" * 5000]:
        path.write_text(bad)
        with pytest.raises(InputError, match="one token"):
            read_token(path)
    with pytest.raises(InputError, match="No such file"):
        read_token(tmp_path / "absent")


def test_serving_to_others_needs_a_token_and_a_taken_port_is_named():
    with pytest.raises(InputError, match="give a token"):
        serve(make_service(), host="0.0.0.0", port=0, token=None)  # noqa: S104
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(make_service(), port=port, token=None)


def test_a_client_that_dribbles_its_headers_is_hung_up_on_and_others_are_not(monkeypatch):
    monkeypatch.setattr("sparing.serving.app.HEADER_SECONDS", 0.5)

    async def dribble(writer):
        for _ in range(100):
            writer.write(b"x")
            await asyncio.sleep(0.1)

    async def hung_up(reader):
        try:
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            return b""

    async def main(listener):
        config = uvicorn.Config(make_service(), http=_Protocol, log_level="error", timeout_keep_alive=30)
        service = uvicorn.Server(config)
        running = asyncio.create_task(service.serve(sockets=[listener]))
        pairs = [await asyncio.open_connection(*listener.getsockname()) for _ in range(3)]
        (silent, _), (slow, slow_writer), (fine, fine_writer) = pairs
        dribbling = [asyncio.create_task(dribble(slow_writer))]
        fine_writer.write(b"POST /double HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n")
        assert await hung_up(slow) == b""
        assert await hung_up(silent) == b""
        fine_writer.write(b"21")  # its headers were in time, and its body may take longer
        assert b"200 OK" in await fine.readuntil(b"}")
        # After a request, too: bytes that come stop the timer of an idle connection.
        dribbling.append(asyncio.create_task(dribble(fine_writer)))
        assert await hung_up(fine) == b""
        for task in dribbling:
            task.cancel()
        for _, writer in pairs:
            writer.close()
        service.should_exit = True
        await running

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(main(listener))


SERVICE = """
import sys, time
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from sparing.serving.batching import Batcher
from sparing.serving.app import Metrics, make_app, serve

def run(items):
    print("running", flush=True)
    time.sleep(1)
    return items

batcher = Batcher(run, max_batch=1, max_wait=0)

async def echo(request):
    return PlainTextResponse(await batcher.submit(await request.body()))

app = make_app([Route("/echo", echo, methods=["POST"])], metrics=Metrics(), batchers=[batcher])
serve(app, port=int(sys.argv[1]), token=None)
"""


def test_sigterm_answers_what_was_accepted_and_exits_with_0():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                httpx.get(f"{url}/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        answers = []

        def send(body):
            answers.append(httpx.post(f"{url}/echo", content=body, timeout=20).text)

        senders = [threading.Thread(target=send, args=(str(i),)) for i in range(2)]
        for sender in senders:
            sender.start()
        assert service.stdout.readline() == "running\n"
        time.sleep(0.2)  # the second request is queued by now
        service.send_signal(signal.SIGTERM)
        for sender in senders:
            sender.join()
        assert sorted(answers) == ["0", "1"]
        assert service.wait(10) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/healthz")
    finally:
        service.kill()
        service.stdout.close()
        service.wait()


FEW = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (260, 260))
from sparing.serving.app import Metrics, connection_limit, make_app, serve
print(connection_limit(1024), flush=True)
serve(make_app([], metrics=Metrics()), port=int(sys.argv[1]), token=None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_idle_connections_beyond_the_limit_on_files_make_room_for_others():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = subprocess.Popen(
        [sys.executable, "-c", FEW, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    url = f"http://127.0.0.1:{port}"
    idle = []
    try:
        assert service.stdout.readline() == "68\n"  # 260 but for those it needs itself
        for _ in range(200):
            try:
                httpx.get(f"{url}/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        idle += [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(300)]
        for _ in range(20):
            assert httpx.get(f"{url}/healthz", timeout=10).status_code == 200
    finally:
        for each in idle:
            each.close()
        service.kill()
        assert len(service.stderr.read()) < 2000
        service.stderr.close()
        service.stdout.close()
        service.wait()


def test_the_missing_extra_is_named():
    code = "import sys; sys.modules['uvicorn'] = None; import sparing.serving.app"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(r'needs uvicorn: pip install "sparing\[serve\]"', result.stderr)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_accepted_sends_small_answers_at_once(host):
    try:
        listener = listen(host, 0)
    except InputError:
        pytest.skip(f"{host} is not to be had here")
    with listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
