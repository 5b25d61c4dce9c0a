import asyncio
import time
from collections import Counter

import httpx
import numpy as np
import pytest

from sparing.errors import InputError
from sparing.offload import Choice, Gate, Geometry, Scheme, ServerModel, prepare, summarise
from sparing.offload.client import MAX_REPLY, Client
from sparing.offload.server import make_server
from sparing.offload.wire.agreement import agreement_digest

GOOD = np.array([0.7, 0.2, 0.1], dtype="<f4").tobytes()
CHOICE = Choice(Scheme.parse("whole:dct16"), 150)


AGREED = agreement_digest(Geometry(32, 32, 4), "dct16")


def response(status, content=b"", headers=None):
    # A stream that was not read yet, as the network gives it.
    headers = {"x-agreement": AGREED, **(headers or {})}
    return httpx.Response(status, stream=httpx.ByteStream(content), headers=headers)


def run(handler, requests, **options):
    """Answer requests through a made-up network."""

    async def main():
        async with Client(
            "http://server", transport=httpx.MockTransport(handler), pause=0.001, **options
        ) as client:
            return await asyncio.gather(*(client.answer(request) for request in requests))

    return asyncio.run(main())


@pytest.fixture
def requests(edge, images):
    return prepare(edge, Gate(threshold=0.6), CHOICE, images(40))


def offloaded(requests):
    return sum(request.payload is not None for request in requests)


def test_the_server_answers_what_is_offloaded_and_the_edge_the_rest(requests):
    seen = []

    async def handler(request):
        seen.append(request)
        return response(200, content=GOOD, headers={"x-server-seconds": "0.001"})

    answers = run(handler, requests, token="t0ken")  # noqa: S106
    assert len(seen) == offloaded(requests) > 0
    for request, answer in zip(requests, answers, strict=True):
        if request.payload is None:
            assert (answer.by, answer.why, answer.tries, answer.wire_bytes) == ("edge", "confident", 0, 0)
        else:
            assert (answer.by, answer.why, answer.tries) == ("server", "", 1)
            np.testing.assert_allclose(answer.probs, [0.7, 0.2, 0.1], rtol=1e-6)
            assert answer.payload_bits == 8 * len(request.payload)
    assert {request.headers["authorization"] for request in seen} == {"Bearer t0ken"}
    total = summarise(answers)
    assert total["answered_by"] == {"edge": 40 - len(seen), "server": len(seen)}
    assert total["edge_answered_because"] == {"confident": 40 - len(seen)}
    assert total["tries"] == len(seen)


def test_bytes_on_the_wire_are_those_of_the_request():
    sizes = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(100)
        sizes.append(len(head) + len(body))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nx-agreement: a\r\n\r\n" + GOOD)
        await writer.drain()
        writer.close()

    async def main():
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with Client(f"http://127.0.0.1:{port}", token="abc") as client:  # noqa: S106
            reply = await client.ask(b"x" * 100, 3, "a")
        listening.close()
        await listening.wait_closed()
        return reply

    reply = asyncio.run(main())
    assert reply.error == ""
    assert [reply.wire_bytes] == sizes


FAULTS = {
    "refusing": lambda _request: (_ for _ in ()).throw(httpx.ConnectError("refused")),
    "killed in the middle": lambda _request: (_ for _ in ()).throw(httpx.RemoteProtocolError("cut off")),
    "overloaded": lambda _request: response(503),
    "failing": lambda _request: response(500),
    "token wrong": lambda _request: response(401),
    "payload refused": lambda _request: response(400, content=b"{}"),
    "redirecting": lambda _request: response(302, headers={"location": "http://elsewhere/"}),
    "garbage": lambda _request: response(200, content=b"<html>hello</html>"),
    "wrong length": lambda _request: response(200, content=GOOD[:8]),
    "NaN": lambda _request: response(200, content=np.full(3, np.nan, "<f4").tobytes()),
    "no distribution": lambda _request: response(200, content=np.full(3, 0.9, "<f4").tobytes()),
    "endless": lambda _request: response(200, content=b"x" * (MAX_REPLY + 1)),
}
RETRIED = {"refusing", "killed in the middle", "overloaded", "failing"}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_the_server_does_every_request_is_answered_once(fault, requests):
    calls = Counter()

    def handler(request):
        calls[request.content] += 1
        return FAULTS[fault](request)

    answers = run(handler, requests, tries=3)
    assert len(answers) == len(requests)
    assert {answer.by for answer in answers} == {"edge"}
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(answer.probs, request.probs)
        if request.payload is not None:
            assert answer.why not in ("", "confident")
            # Where no connection comes about, nothing is sent.
            assert answer.tries == (0 if fault == "refusing" else 3 if fault in RETRIED else 1)
            assert (answer.wire_bytes == 0) == (fault == "refusing")
    total = summarise(answers)
    assert sum(total["edge_answered_because"].values()) == len(requests)
    assert total["tries"] == (0 if fault == "refusing" else sum(calls.values()))
    assert max(calls.values()) == (3 if fault in RETRIED else 1)


def test_a_slow_server_is_not_waited_for_longer_than_the_timeout(requests):
    async def handler(_request):
        await asyncio.sleep(30)
        return response(200, content=GOOD)

    started = time.perf_counter()
    answers = run(handler, requests, timeout=0.2, concurrency=64)
    assert time.perf_counter() - started < 10
    late = [answer for answer in answers if answer.tries]
    assert {answer.why for answer in late} == {"no answer within 0.2 s"}
    assert all(answer.by == "edge" for answer in answers)


def test_the_timeout_bounds_the_wait_for_ones_turn_too(requests):
    async def handler(_request):
        await asyncio.sleep(30)

    requests = [request for request in requests if request.payload is not None]
    assert len(requests) >= 12
    answers = run(handler, requests[:12], timeout=0.3, concurrency=1)
    assert sum(answer.tries for answer in answers) < 12  # most never had their turn
    assert {answer.why for answer in answers} == {"no answer within 0.3 s"}
    assert max(answer.link_seconds for answer in answers) < 3  # and not 12 timeouts


def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert not Client("http://server")._http._mounts


def test_a_link_that_loses_one_in_ten_loses_no_request(requests):
    rng = np.random.default_rng(0)

    def handler(_request):
        if rng.random() < 0.1:
            raise httpx.ReadTimeout("lost")
        return response(200, content=GOOD)

    answers = run(handler, requests * 5, tries=8)
    total = summarise(answers)
    assert total["answered_by"]["server"] == 5 * offloaded(requests)
    assert total["tries"] > total["answered_by"]["server"]


def test_pooling_happens_where_the_answer_arrives(requests):
    request = next(request for request in requests if request.payload is not None)

    async def main():
        transport = httpx.MockTransport(lambda _request: response(200, content=GOOD))
        async with Client("http://server", transport=transport) as client:
            return await client.answer(request, edge_weight=1.0)

    product = np.array([0.7, 0.2, 0.1]) * request.probs
    np.testing.assert_allclose(asyncio.run(main()).probs, product / product.sum(), rtol=1e-4)


def test_the_real_server_and_client_agree(edge, server, requests, geometry):
    async def main():
        app = make_server(server, token="secret")  # noqa: S106
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            Client("http://server", token="secret", transport=transport, timeout=30) as client,  # noqa: S106
            Client("http://server", token="wrong", transport=transport) as stranger,  # noqa: S106
        ):
            described, _ = await client.describe()
            assert described["patch"] == 4
            assert await stranger.describe() == (None, "the server answered 401")
            refused = await asyncio.gather(*(stranger.answer(request) for request in requests))
            return await asyncio.gather(*(client.answer(request) for request in requests)), refused

    answers, refused = asyncio.run(main())
    assert sum(answer.by == "server" for answer in answers) == offloaded(requests)
    assert {a.why for a in refused if a.tries} == {"the server answered 401"}


@pytest.mark.parametrize("differs", ["geometry", "codec"])
def test_a_server_that_reads_payloads_otherwise_is_not_credited_with_the_answer(
    differs, edge, server, images, monkeypatch
):
    # Nothing was checked beforehand: the server may have come up, or changed, after the client started.
    codec = "dct16" if differs == "geometry" else "jpeg"
    choice = Choice(Scheme.parse(f"whole:{codec}"), 400)
    requests = prepare(edge, Gate(threshold=0), choice, images(4))
    assert all(request.payload for request in requests)
    if differs == "geometry":
        server = ServerModel(server.run, Geometry(64, 64, 4))
    else:
        agreement_digest.cache_clear()
        monkeypatch.setattr("sparing.offload.codecs.jpeg.Jpeg.template", lambda *_: b"another")

    async def main():
        app = make_server(server)
        async with (
            app.router.lifespan_context(app),
            Client("http://server", transport=httpx.ASGITransport(app=app), timeout=30) as client,
        ):
            return await asyncio.gather(*(client.answer(request) for request in requests))

    answers = asyncio.run(main())
    agreement_digest.cache_clear()
    assert {(a.by, a.why, a.tries) for a in answers} == {
        ("edge", "edge and server differ in geometry, codec or version", 1)
    }
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(answer.probs, request.probs)


@pytest.mark.parametrize(
    "bad",
    [
        {"url": "ftp://x"},
        {"url": "localhost:80"},
        {"url": "http://"},
        {"timeout": 0},
        {"tries": 0},
        {"timeout": np.inf},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError):
        Client(**{"url": "http://server", **bad})
