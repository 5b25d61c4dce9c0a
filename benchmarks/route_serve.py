"""Load on `sparing route serve`, in a process of its own on loopback, against the same experts called directly.

Images of mixed sizes and formats are made from those of a sample table. Every answer is checked against what
the expert gives for that image when it is called here, and the client's counts against the server's. Then come
a queue that is too short, and abuse beside good requests: malformed and oversize bodies, clients that hang or
leave within their body, images on which an expert raises; and SIGTERM under load. Any check that fails ends
the benchmark with an error. Without --router, a small untrained network stands in, its scores scaled so that
every expert is needed: the figures of the service are the same, the choices are of no use.

    python benchmarks/route_serve.py --samples test.parquet --expert small=small.onnx --expert large=large.onnx
"""

import argparse
import asyncio
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import machine
from sparing.data.samples import open_samples
from sparing.images import decode
from sparing.models import load_model
from sparing.route.dispatch import Dispatcher
from sparing.route.experts import Expert, Latency
from sparing.route.router import Calibration, Point, Router, RouterDescription, open_router, write_router
from timing import table

SIZES = (48, 100, 100, 100, 160, 320, 640)
FORMATS = ("JPEG", "JPEG", "PNG", "WEBP")
BODY = 1_000_000
PATH = "/v1/answer"
FRAGILE = """
from sparing.models import load_model

inner = load_model("inner={target}")

def judge(values):
    if any(value.endswith(b"raise") for value in values):
        raise RuntimeError("on purpose")
    return inner([None] * len(values), values)
"""


@dataclass
class TestImage:
    """One encoded image, and what answering it directly gives: gains and distributions of every expert."""

    body: bytes
    gains: np.ndarray = None  # type: ignore[assignment]
    probs: np.ndarray = None  # type: ignore[assignment]
    best: int = 0


@dataclass
class Tally:
    """What a client saw."""

    codes: Counter = field(default_factory=Counter)
    experts: Counter = field(default_factory=Counter)
    seconds: list = field(default_factory=list)
    refused_seconds: list = field(default_factory=list)
    near_ties: int = 0
    lost: list = field(default_factory=list)
    elapsed: float = 0.0


def make_images(samples: str, number: int) -> list[TestImage]:
    opened = open_samples(samples, column="image")
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(opened), number, replace=False))
    images = []
    for value in opened.fetch(rows):
        size = int(rng.choice(SIZES))
        resized = Image.fromarray(decode(value, "a sample")).resize((size, int(size * rng.uniform(0.6, 1.0))))
        buffer = io.BytesIO()
        resized.save(buffer, str(rng.choice(FORMATS)))
        images.append(TestImage(buffer.getvalue()))
    return images


def stand_in(folder: Path, experts: list[str], images: list[TestImage]) -> Path:
    """Make a router of three random convolutions at 96x96, its scores scaled to share the images out."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    nodes, constants, name, channels = [], [], "x", 3
    for layer, width in enumerate((16, 32, 32)):
        weights = rng.normal(0, np.sqrt(2 / (9 * channels)), (width, channels, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"w{layer}"))
        nodes.append(
            helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], strides=[2, 2], pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name, channels = f"r{layer}", width
    head = rng.normal(size=(channels, len(experts))).astype(np.float32)
    constants.append(numpy_helper.from_array(head, "head"))
    nodes.append(helper.make_node("ReduceMean", [name], ["pooled"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["pooled", "head"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "router",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 96, 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(experts)])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "router.onnx")
    (folder / "router.toml").write_text(
        '[input]\ndecode = "image"\nresize = [96, 96]\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n'
    )
    unmeasured = Latency(1, 0.0, 0.0, 0)
    known = []
    for spec in experts:
        loaded = load_model(spec)
        target = str(Path(spec.partition("=")[2]).resolve())
        known.append(Expert(loaded.name, target, loaded.digest, unmeasured, unmeasured))
    description = RouterDescription(
        objective="benefit",
        experts=tuple(known),
        single=unmeasured,
        batched=unmeasured,
        classes=loaded.classes,
        training={"stand-in": True},
    )
    write_router(folder, description)
    scores = open_router(folder).scores(list(range(len(images))), [p.body for p in images])
    scale = 1 / scores.std(axis=0)
    fitted = Calibration(
        tuple(map(float, scale)), tuple(map(float, -scores.mean(axis=0) * scale)), len(images)
    )
    point = Point("none", (0.0,) * len(known), 0.0, 0.0, 0.0, unit="seconds")
    write_router(folder, replace(description, calibration=fitted, points=(point,)))
    return folder


def fragile(folder: Path, router: Path, which: int) -> Path:
    """Copy a router with one expert replaced by a Python file around it, which raises on marked images."""
    copied = folder / "fragile"
    shutil.copytree(router, copied)
    opened = open_router(copied)
    (folder / "fragile.py").write_text(FRAGILE.format(target=opened.experts[which].target))
    experts = list(opened.experts)
    target = f"{folder / 'fragile.py'}:judge"
    digest = load_model(f"x={target}").digest
    experts[which] = replace(experts[which], target=target, digest=digest)
    write_router(copied, replace(opened.description, experts=tuple(experts)))
    return copied


def answer_directly(router: Router, images: list[TestImage]) -> None:
    """Note what every expert says of every image, and which one the router picks, one at a time."""
    experts = [load_model(f"{expert.name}={expert.target}") for expert in router.experts]
    for image in images:
        scores = router.scores(["x"], [image.body])
        point = router.point()
        gains = router.gains(scores)
        costs = np.array(point.costs) * point.multiplier if point else 0.0
        image.gains = (gains - costs)[0] if point else scores[0]
        image.best = int(router.choose(scores, point)[0])
        image.probs = np.stack([model(["x"], [image.body])[0] for model in experts])


def time_directly(router: Router, images: list[TestImage], number: int) -> list[list[object]]:
    """Time experts alone, and router and experts, one image at a time and 32 at a time, without HTTP."""
    dispatcher = Dispatcher(router, router.point())
    dispatcher.warm()
    experts = [dispatcher.experts.load(at) for at in range(len(router.experts))]
    rows = []
    for batch in (1, 32):
        for way in ("the chosen expert alone", "router and chosen expert"):
            seconds = []
            started = time.perf_counter()
            for start in range(0, number, batch):
                asked = [images[at % len(images)] for at in range(start, min(start + batch, number))]
                before = time.perf_counter()
                if way == "router and chosen expert":
                    dispatcher.answer(list(range(len(asked))), [p.body for p in asked])
                else:
                    for which in {p.best for p in asked}:
                        bodies = [p.body for p in asked if p.best == which]
                        experts[which](list(range(len(bodies))), bodies)
                seconds += [time.perf_counter() - before] * len(asked)
            rate = number / (time.perf_counter() - started)
            rows.append([f"in process, {way}, {batch} at a time", number, *_timed(seconds, rate)])
    return rows


def _timed(seconds: list[float], rate: float) -> list[str]:
    milliseconds = 1000 * np.array(seconds)
    return [f"{rate:.0f}", *(f"{np.percentile(milliseconds, q):.1f}" for q in (50, 99))]


@contextmanager
def service(router: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from sparing.cli.main import main; main()", "route", "serve", str(router),
               "--port", str(port), "--max-body", str(BODY), *options]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        while process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def check(image: TestImage, said: dict, names: list[str], tally: Tally) -> None:
    """Compare an answer with the direct one; experts whose gains are equal within rounding may swap."""
    which = names.index(said["expert"])
    if which != image.best:
        assert image.gains[image.best] - image.gains[which] < 1e-4, f"{said['expert']} was not the choice"
        tally.near_ties += 1
    np.testing.assert_allclose(said["probs"], image.probs[which], atol=1e-4)
    assert said["prediction"] == int(np.argmax(said["probs"]))
    tally.experts[said["expert"]] += 1


async def load(
    url: str, images: list[TestImage], names: list[str], *, number: int, concurrency: int, stop=None
) -> Tally:
    """Send images from some clients, each its next when the last was answered; check every answer."""
    tally = Tally()
    asked = iter(range(number))
    parsed = httpx.URL(url)

    async def client() -> None:
        # A plain connection: an HTTP library's pool would be what is measured from 32 clients on.
        try:
            reader, writer = await asyncio.open_connection(parsed.host, parsed.port)
        except OSError:
            tally.codes["not accepted"] += 1
            return
        try:
            for at in asked:
                if stop is not None and stop.is_set():
                    return
                image = images[at % len(images)]
                sent = time.perf_counter()
                try:
                    code, body = await post(reader, writer, image.body)
                except ConnectionRefusedError:
                    tally.codes["not accepted"] += 1
                    return
                except (OSError, asyncio.IncompleteReadError) as error:
                    tally.codes["lost"] += 1
                    tally.lost.append((sent, repr(error)))
                    return
                spent = time.perf_counter() - sent
                tally.codes[code] += 1
                if code == 200:
                    tally.seconds.append(spent)
                    check(image, json.loads(body), names, tally)
                else:
                    tally.refused_seconds.append(spent)
        finally:
            writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    tally.elapsed = time.perf_counter() - started
    return tally


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes]:
    """Send one request on a connection that stays open, and read its answer."""
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in answer if line.startswith("content-length:"))
    return int(answer[0].split()[1]), await reader.readexactly(length)


def server_counts(url: str) -> tuple[Counter, Counter]:
    """Read from /metrics how many requests had each status, and how many each expert answered."""
    codes, experts = Counter(), Counter()
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=30).text):
        for sample in family.samples:
            if sample.name == "http_requests_total" and sample.labels["path"] == PATH:
                codes[int(sample.labels["status"])] += int(sample.value)
            if sample.name == "route_expert_total" and sample.value:
                experts[sample.labels["expert"]] += int(sample.value)
    return codes, experts


def agree(url: str, codes: Counter, experts: Counter) -> None:
    """Raise unless the server counted what the client did; it may still be counting clients that left."""
    for _ in range(100):
        counted = server_counts(url)
        if counted == (codes, experts):
            return
        time.sleep(0.05)
    raise AssertionError(f"the client counted {codes} {experts}, the server {counted}")


async def raw(url: str, sent: bytes, *, leave: bool) -> int:
    """Send part of a request over a bare connection; leave at once, or wait for the status."""
    parsed = httpx.URL(url)
    reader, writer = await asyncio.open_connection(parsed.host, parsed.port)
    writer.write(sent)
    await writer.drain()
    status = 499
    if not leave:
        status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def abuse(url: str, images: list[TestImage], which: int) -> Counter:
    """Send everything that should be refused, all at once; count the answers."""
    marked = [image for image in images if image.best == which]
    rng = np.random.default_rng(1)
    malformed = [b"", rng.bytes(3000), b"GIF89a" + b"\xff" * 40]
    # Half of an image: whatever its format, it cannot be decoded.
    malformed += [image.body[: len(image.body) // 2] for image in images[:57]]
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\nbegun".encode()

    async def chunked() -> object:
        for _ in range(12):
            yield b"x" * 100_000

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=16)) as client:
        raising = [marked[at % len(marked)].body + b"raise" for at in range(40)]
        answers = await asyncio.gather(
            *(client.post(url + PATH, content=body) for body in [*malformed, *raising]),
            *(client.post(url + PATH, content=b"x" * (BODY + 1)) for _ in range(20)),
            *(client.post(url + PATH, content=chunked()) for _ in range(20)),
            *(raw(url, head, leave=at % 2 == 0) for at in range(40)),
        )
    codes = Counter(answer if isinstance(answer, int) else answer.status_code for answer in answers)
    assert codes == {400: 60, 500: 40, 413: 40, 408: 20, 499: 20}, codes
    return codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--router", "--gater", type=Path, help="what `sparing route train` made")
    parser.add_argument(
        "--expert", action="append", default=[], metavar="NAME=TARGET", help="without a router"
    )
    parser.add_argument("--samples", default="../shared/data/intel_scenes/test.parquet")
    parser.add_argument("--images", type=int, default=300, help="different ones")
    parser.add_argument("--requests", type=int, default=2000, help="per line of the table")
    parser.add_argument("--concurrency", default="1,8,32,128")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "route_serve.md")
    args = parser.parse_args()
    if (args.router is None) == (not args.expert):
        parser.error("give --router, or the experts of a stand-in")
    before = machine.load()
    images = make_images(args.samples, args.images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = args.router or stand_in(folder / "router", args.expert, images)
        lines = measure(folder, path, images, args)
    shown = re.sub(r"(?<=[ =])[^\s=]*/(?=\S)", "", " ".join(["benchmarks/route_serve.py", *sys.argv[1:]]))
    text = "\n".join([
        "# Load on `sparing route serve`", "",
        f"Command: `python {shown}`  ",
        f"Machine: {machine.describe()}; {before} before, {machine.load()} after", "", *lines, "",
    ])  # fmt: skip
    print(text)
    args.out.write_text(text)


def measure(folder: Path, path: Path, images: list[TestImage], args: argparse.Namespace) -> list[str]:
    router = open_router(path)
    names = [expert.name for expert in router.experts]
    answer_directly(router, images)
    shares = Counter(names[image.best] for image in images)
    rows = time_directly(router, images, args.requests)
    checked, ties = 0, 0
    with service(path) as (url, _):
        codes, experts = Counter(), Counter()
        for concurrency in map(int, args.concurrency.split(",")):
            tally = asyncio.run(load(url, images, names, number=args.requests, concurrency=concurrency))
            assert tally.codes == {200: args.requests}, tally.codes
            rows.append([
                f"served, {concurrency} clients", args.requests,
                *_timed(tally.seconds, args.requests / tally.elapsed),
            ])  # fmt: skip
            print(rows[-1], file=sys.stderr)
            codes, experts = codes + tally.codes, experts + tally.experts
            checked, ties = checked + tally.codes[200], ties + tally.near_ties
        agree(url, codes, experts)
    faults = []

    with service(path, "--max-queue", "8", "--max-batch", "8") as (url, process):
        tally = asyncio.run(load(url, images, names, number=args.requests, concurrency=128))
        agree(url, tally.codes, tally.experts)
        assert tally.codes[503] > 0
        assert set(tally.codes) == {200, 503}
        assert process.poll() is None
        refused = np.percentile(1000 * np.array(tally.refused_seconds), 99)
        told = f"P99 of a 503: {refused:.0f} ms, of a 200: {_timed(tally.seconds, 0)[2]} ms"
        faults.append(["overload: queue of 8, 128 clients", _counted(tally.codes), told])
        checked, ties = checked + tally.codes[200], ties + tally.near_ties

    which = names.index(shares.most_common(1)[0][0])
    with service(fragile(folder, path, which)) as (url, process):

        async def both() -> tuple[Tally, Counter]:
            good = load(url, images, names, number=args.requests // 2, concurrency=8)
            return tuple(await asyncio.gather(good, abuse(url, images, which)))  # type: ignore[return-value]

        tally, codes = asyncio.run(both())
        assert tally.codes == {200: args.requests // 2}, tally.codes
        agree(url, tally.codes + codes, tally.experts)
        assert httpx.get(f"{url}/healthz").text == "ok\n"
        assert process.poll() is None
        checked, ties = checked + tally.codes[200], ties + tally.near_ties
        faults.append(["abuse", _counted(codes), "alive after it"])
        faults.append(["good requests beside it, 8 clients", _counted(tally.codes), "all as called directly"])

    with service(path) as (url, process):

        async def until_sigterm() -> tuple[Tally, float]:
            stop = asyncio.Event()
            clients = asyncio.create_task(load(url, images, names, number=10**9, concurrency=32, stop=stop))
            await asyncio.sleep(3)
            process.send_signal(signal.SIGTERM)
            signalled = time.perf_counter()
            await asyncio.sleep(1)
            stop.set()
            return await clients, signalled

        tally, signalled = asyncio.run(until_sigterm())
        status = process.wait(60)
        assert status == 0, status
        counted = int(re.search(r"answered (\d+) requests", process.stderr.read()).group(1))
        checked, ties = checked + tally.codes[200], ties + tally.near_ties
        # What a server answered arrived; what was sent before the signal was answered.
        assert counted == tally.codes[200], f"the server answered {counted}, {tally.codes} arrived"
        early = [sent for sent, _ in tally.lost if sent < signalled - 0.05]
        assert not early, f"{len(early)} requests sent before the signal were lost"
        late = f"{tally.codes['lost'] + tally.codes['not accepted']} sent after the signal were not accepted"
        faults.append(["SIGTERM under load, 32 clients", _counted(tally.codes), f"exit {status}; {late}"])

    about = ", ".join(f"{name} {100 * shares[name] / len(images):.0f} %" for name in names)
    kind = "a trained router" if args.router else "an untrained stand-in for the router"
    sizes = [len(image.body) for image in images]
    return [
        f"{len(images)} images of {min(SIZES)} to {max(SIZES)} pixels, {min(sizes):,} to {max(sizes):,} bytes, "
        f"as JPEG, PNG and WebP; {kind}; shares: {about}. One server process, one client process on the same "
        "cores.", "",
        *table(["", "requests", "requests/s", "P50 ms", "P99 ms"], rows), "",
        "In process, P50 and P99 are of the whole call: 32 at a time wait for one another.", "",
        *table(["", "answers", ""], faults), "",
        f"Checked: {checked:,} answers against the same experts called directly, one image at a time "
        f"(within 1e-4; {ties} went to another expert whose gain was equal within 1e-4); the client's counts by "
        "status and by expert against `/metrics`; at SIGTERM the server's count of answers against those that "
        "arrived.",
    ]  # fmt: skip


def _counted(codes: Counter) -> str:
    return ", ".join(f"{count} x {code}" for code, count in sorted(codes.items(), key=str))


if __name__ == "__main__":
    main()
