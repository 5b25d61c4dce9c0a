import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tests.route.routers import (
    EXPERTS,
    POINTS,
    expected,
    expert,
    image,
    make_router,
    save_images_model,
    save_numbers_model,
)

from sparing.errors import ModelError
from sparing.route.router import open_router
from sparing.route.service import Service
from sparing.serving.app import Limits

FRAGILE = """
import os
import time
from pathlib import Path
from sparing.models import load_model

inner = load_model(f"inner={Path(__file__).parent / 'bright.onnx'}")

def judge(values):
    if any(value.endswith(b"raise") for value in values):
        raise RuntimeError("secret path")
    if any(value.endswith(b"exit") for value in values):
        os._exit(3)
    while any(value.endswith(b"hang") for value in values):
        time.sleep(1)
    if any(value.endswith(b"wait") for value in values):
        time.sleep(0.5)
    return inner([None] * len(values), values)
"""


def make_fragile(folder):
    """A router whose expert for bright images raises on some and dawdles over others."""
    for name, model in EXPERTS.items():
        save_images_model(folder / f"{name}.onnx", *model, softmax=True)
    (folder / "fragile.py").write_text(FRAGILE)
    experts = [expert("dark", folder / "dark.onnx"), expert("bright", f"{folder / 'fragile.py'}:judge")]
    return make_router(folder, experts=experts)


def ask(service, requests):
    """Send all requests at once."""

    async def main():
        transport = httpx.ASGITransport(app=service.app, raise_app_exceptions=False)
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            answers = await asyncio.gather(*(client.request(*args, **extra) for *args, extra in requests))
            return answers, _metrics((await client.get("/metrics")).text)

    return asyncio.run(main())


def post(body, **extra):
    return ("POST", "/v1/answer", {"content": body, **extra})


def post_json(text):
    return post(text, headers={"content-type": "application/json; charset=utf-8"})


def _metrics(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def check(answer, shade):
    assert answer.status_code == 200
    said = answer.json()
    name, probs = expected(shade)
    assert said["expert"] == name
    np.testing.assert_allclose(said["probs"], probs, atol=1e-5)
    assert said["prediction"] == probs.argmax()
    assert said["class"] == ("night", "day")[probs.argmax()]
    assert 0 < said["seconds"] < 60


def test_many_at_once_of_any_size_each_get_their_own_answer(tmp_path):
    shades = list(range(0, 250, 7))
    service = Service(open_router(make_router(tmp_path)), None, max_wait=0.05)
    answers, metrics = ask(
        service, [post(image(shade, size=(4 + at, 50 - at))) for at, shade in enumerate(shades)]
    )
    for shade, answer in zip(shades, answers, strict=True):
        check(answer, shade)
    dark = sum(expected(shade)[0] == "dark" for shade in shades)
    assert metrics["http_requests_total", "/v1/answer", "200"] == len(shades)
    assert metrics["route_expert_total", "dark"] == dark == service.answered["dark"]
    assert metrics["route_expert_total", "bright"] == len(shades) - dark
    assert metrics["batch_size_sum",] == len(shades)
    assert 1 < metrics["batch_size_count",] < len(shades)
    assert 0 < metrics["route_expert_seconds_count", "dark"] <= metrics["route_router_seconds_count",]
    assert metrics["route_router_seconds_sum",] > 0
    assert metrics["route_decoding_seconds_sum",] > 0


def test_malformed_and_oversize_bodies_hurt_nobody_else(tmp_path):
    good = image(30)
    bad = [b"", b"\xff" * 50, good[: len(good) // 2], b"x" * 5001]
    service = Service(open_router(make_router(tmp_path)), None, max_wait=0.1, limits=Limits(body_bytes=5000))
    requests = [post(good), *map(post, bad), post_json('{"value": [0.1, 0.2, 0.3]}'), post(image(220))]
    answers, metrics = ask(service, requests)
    assert [answer.status_code for answer in answers] == [200, 400, 400, 400, 413, 400, 200]
    check(answers[0], 30)
    check(answers[-1], 220)
    assert "cannot be decoded" in answers[2].json()["error"]
    assert metrics["batch_size_count",] == 1  # all of them were in one batch
    assert metrics["http_requests_total", "/v1/answer", "400"] == 4


def test_an_expert_that_raises_is_500_for_its_request_alone_without_details(tmp_path, caplog):
    service = Service(open_router(make_fragile(tmp_path)), None, max_wait=0.1)
    shades = [220, 20, 230]
    requests = [*(post(image(shade)) for shade in shades), post(image(240) + b"raise")]
    answers, metrics = ask(service, requests)
    for shade, answer in zip(shades, answers, strict=False):
        check(answer, shade)
    assert answers[-1].status_code == 500
    assert answers[-1].json() == {"error": "the expert 'bright' failed (RuntimeError)"}
    assert "RuntimeError: secret path" in caplog.text  # for the operator
    assert metrics["route_failures_total", "bright"] == 1
    assert metrics["route_failures_total", "dark"] == 0
    assert metrics["route_expert_total", "bright"] == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("[1, 2, 3]", "one key"),
        ('{"value": [1, 2, 3], "id": 4}', "one key"),
        ('{"value": [1, [2]]}', "not JSON with a value"),
        ('{"value": [NaN, 1, 2]}', "NaN is not a number"),
        ('{"value": [1e999, 1, 2]}', "finite"),
        ('{"value": [null, 1, 2]}', "finite"),
        ('{"value": {"a": 1}}', "finite"),
        ('{"value": [' + "9" * 400 + ", 1, 2]}", "finite"),
        ('{"value": ' + "[" * 20_000 + "]" * 20_000 + "}", "not JSON with a value"),
        ('{"value": [1, 2, 3', "not JSON with a value"),
        (b"\xff\xfe\x00", "not JSON with a value"),
        ('{"value": [1, 2]}', r"has the shape \(2,\)"),
        ('{"value": "text"}', "takes numbers"),
    ],
)  # fmt: skip
def test_malformed_json_is_400_with_the_reason_and_hurts_nobody_else(tmp_path, body, reason):
    service = Service(open_router(make_router(tmp_path, save=save_numbers_model)), None, max_wait=0.1)
    good = post_json(json.dumps({"value": [0.9, 0.1, 0.2]}))
    (first, answer, last), metrics = ask(service, [good, post_json(body), good])
    assert answer.status_code == 400
    assert re.search(reason, answer.json()["error"]), answer.text
    for one in (first, last):
        check(one, np.array([0.9, 0.1, 0.2]) * 255)
    assert metrics["batch_size_count",] == 1


def test_the_service_says_what_answers(tmp_path):
    router = open_router(make_router(tmp_path, points=POINTS))
    (answer,), _ = ask(Service(router, router.point("1ms")), [("GET", "/v1/model", {})])
    said = answer.json()
    assert [one["name"] for one in said["experts"]] == ["dark", "bright"]
    assert said["experts"][0]["seconds"] == 0.001
    assert said["classes"] == ["night", "day"]
    assert (said["budget"], said["expected_cost"], said["takes"]) == ("1ms", 0.001, "image")


def test_preloading_finds_what_is_wrong_and_without_it_experts_load_when_needed(tmp_path):
    router = open_router(make_router(tmp_path))
    (tmp_path / "bright.onnx").unlink()
    with pytest.raises(ModelError, match=r"bright.onnx: no such file"):
        Service(router, None)
    service = Service(router, None, preload=False)
    (dark, bright), _ = ask(service, [post(image(20)), post(image(200))])
    check(dark, 20)
    assert bright.status_code == 500
    assert "internal" not in bright.text


def test_overload_is_answered_503_and_what_was_accepted_is_answered(tmp_path):
    service = Service(open_router(make_fragile(tmp_path)), None, max_batch=1, max_wait=0, max_queue=3)
    slow = [post(image(200) + b"wait") for _ in range(2)]
    answers, metrics = ask(service, slow + [post(image(20)) for _ in range(30)])
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    for answer in answers[2:]:
        if answer.status_code == 200:
            check(answer, 20)
    assert metrics["http_requests_total", "/v1/answer", "503"] == codes.count(503)
    assert sum(service.answered.values()) == codes.count(200)


@pytest.fixture
def started(tmp_path):
    """`sparing route serve` in a process of its own, and its port."""
    router = make_fragile(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", "from sparing.cli.main import main; main()", "route", "serve", router,
         "--port", str(port), "--max-batch", "2", "--batch-seconds", "2", "--max-pixels", "100000"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        for _ in range(1200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz")
                break
            except httpx.TransportError:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


def wait_until_ready(url):
    for _ in range(600):
        if httpx.get(f"{url}/healthz").status_code == 200:
            return
        time.sleep(0.05)
    raise AssertionError("the service does not come back")


@pytest.mark.parametrize("how", [b"hang", b"exit"])
def test_a_model_that_hangs_or_dies_is_replaced_and_its_requests_answered(started, how):
    process, port = started
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/healthz").status_code == 200
    failed = httpx.post(f"{url}/v1/answer", content=image(200) + how, timeout=30)
    assert failed.status_code == 503
    assert "started again" in failed.json()["error"]
    assert failed.headers["retry-after"] == "1"
    wait_until_ready(url)
    answer = httpx.post(f"{url}/v1/answer", content=image(20), timeout=30)
    assert answer.json()["expert"] == "dark"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_second_signal_ends_it_whatever_runs(started):
    process, port = started
    with socket.create_connection(("127.0.0.1", port)) as hanging:
        body = image(200) + b"hang"
        head = f"POST /v1/answer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        hanging.sendall(head.encode() + body)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 1
    assert "stopped at once" in process.stderr.read()


def test_large_images_and_names_of_others_are_refused(started):
    _, port = started
    url = f"http://127.0.0.1:{port}"
    buffer = io.BytesIO()
    Image.new("1", (1000, 101)).save(buffer, "PNG")
    refused = httpx.post(f"{url}/v1/answer", content=buffer.getvalue())
    assert refused.status_code == 400
    assert "1000 x 101 pixels" in refused.json()["error"]
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n"
    assert httpx.post(f"{url}/v1/answer", content=eps).status_code == 400
    for host in ("evil.example", "localhost.evil.example", "[::2]", ""):
        assert httpx.get(f"{url}/v1/model", headers={"host": host}).status_code == 403
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", "[::1]:80"):
        assert httpx.get(f"{url}/v1/model", headers={"host": host}).status_code == 200


def test_sigterm_under_load_loses_nothing_that_was_accepted(started):
    process, port = started
    results = []

    def send(shade, tail):
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/answer", content=image(shade) + tail, timeout=60)
        results.append((shade, answer))

    # Batches of two that take half a second: most requests still wait when the signal comes.
    senders = [threading.Thread(target=send, args=(130 + 10 * at, b"wait")) for at in range(8)]
    for sender in senders:
        sender.start()
    with socket.create_connection(("127.0.0.1", port)) as hanging:
        hanging.sendall(b"POST /v1/answer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nhalf")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until the server has all of them
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            if _metrics(text).get(("batch_size_count",), 0) >= 1:
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        for sender in senders:
            sender.join()
        hanging.settimeout(30)
        assert hanging.recv(1000).startswith(b"HTTP/1.1 408")
    assert len(results) == 8
    for shade, answer in results:
        check(answer, shade)
    assert process.wait(30) == 0
    assert "answered 8 requests: dark 0, bright 8" in process.stderr.read()


def test_clients_that_hang_or_leave_within_their_body_hurt_nobody(started):
    process, port = started
    head = b"POST /v1/answer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n"
    hanging = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    leaving = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    for connection in hanging + leaving:
        connection.sendall(head + b"x" * 100)
    for connection in leaving:
        connection.close()
    for shade in (20, 200):
        check(httpx.post(f"http://127.0.0.1:{port}/v1/answer", content=image(shade)), shade)
    for connection in hanging:
        connection.close()
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/answer", content=image(200) + b"raise")
    assert answer.status_code == 500
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").text == "ok\n"
    assert process.poll() is None
