import asyncio

import httpx
import numpy as np
import pytest

from sparing.errors import ModelError
from sparing.offload import Choice, Gate, Scheme, ServerModel, prepare
from sparing.offload.server import make_server
from sparing.offload.wire.agreement import terms_of
from sparing.offload.wire.payload import max_payload, unpack


def ask(app, requests):
    async def main():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://server") as client,
        ):
            return await asyncio.gather(*(client.request(*args, **extra) for *args, extra in requests))

    return asyncio.run(main())


@pytest.fixture
def payloads(edge, images):
    pixels = images(12)
    found = []
    for text, budget in [
        ("whole:dct16", 150),
        ("raw:sage", 700),
        ("raw:grid", 400),
        ("mosaic:spread:9:webp", 300),
    ]:
        choice = Choice(Scheme.parse(text), budget)
        found += [request.payload for request in prepare(edge, Gate(threshold=0), choice, pixels[:3])]
    return found


def test_many_payloads_at_once_each_get_the_models_answer(server, payloads, geometry):
    answers = ask(
        make_server(server, max_wait=0.05), [("POST", "/v1/answer", {"content": p}) for p in payloads]
    )
    for payload, answer in zip(payloads, answers, strict=True):
        assert answer.status_code == 200
        evidence = unpack(payload, geometry)
        expected = server(evidence.patches[None], evidence.positions[None])[0]
        np.testing.assert_allclose(np.frombuffer(answer.content, "<f4"), expected, rtol=1e-6)
        assert float(answer.headers["x-server-seconds"]) > 0


def test_bad_payloads_are_400_with_the_reason_and_do_not_hurt_others(server, payloads):
    bad = [b"", b"\xff" * 50, payloads[0] + b"\x01" * 20, payloads[3][:-1]]
    mixed = [payloads[0], *bad, payloads[3]]
    answers = ask(make_server(server), [("POST", "/v1/answer", {"content": p}) for p in mixed])
    assert [answer.status_code for answer in answers] == [200, 400, 400, 400, 400, 200]
    assert "version 7" in answers[2].json()["error"]


def test_no_body_is_larger_than_the_largest_payload(server, geometry, edge, images):
    limit = max_payload(geometry)
    largest = Scheme.parse("raw:sage").encode(images(1), edge(images(1)), geometry, [limit])[0][0]
    assert len(unpack(largest, geometry).positions) == 64
    answers = ask(
        make_server(server),
        [
            ("POST", "/v1/answer", {"content": content})
            for content in (largest, b"x" * limit, b"x" * (limit + 1))
        ],
    )
    assert [answer.status_code for answer in answers] == [200, 400, 413]


def test_a_model_that_fails_is_500_without_details(payloads, geometry):
    calls = []

    def broken(patches, positions):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("secret path")
        return np.zeros((len(patches), 2))

    (answer,) = ask(
        make_server(ServerModel(broken, geometry)), [("POST", "/v1/answer", {"content": payloads[0]})]
    )
    assert len(calls) == 2
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_the_server_says_what_has_to_be_agreed_on(server, geometry):
    (answer,) = ask(make_server(server), [("GET", "/v1/model", {})])
    assert answer.json() == {**terms_of(geometry), "classes": 3}


def test_a_model_that_fails_on_any_image_is_named_before_serving(geometry):
    with pytest.raises(ModelError, match="server model failed"):
        make_server(ServerModel(lambda *_: 1 / 0, geometry))
