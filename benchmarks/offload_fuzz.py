"""Fuzz the reader of payloads, and a live server: everything comes back as evidence or as one clear refusal.

Mutated payloads of several geometries (images always have 3 channels); with --coverage a coverage-guided
fuzzer (atheris) instead; with --http mutated bodies and mutated whole requests to `sparing offload serve`,
which must answer 200 or 4xx, quickly, and be in good health and of bounded memory afterwards.

    python benchmarks/offload_fuzz.py --count 100000
    python benchmarks/offload_fuzz.py --http --count 4000
    python benchmarks/offload_fuzz.py --coverage --count 1000000
"""

import argparse
import asyncio
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from sparing.errors import InputError
from sparing.offload import EdgeOutput, Geometry, Scheme
from sparing.offload.codecs import CODECS
from sparing.offload.wire.payload import max_payload, unpack

GEOMETRIES = [
    Geometry(32, 32, 4),
    Geometry(16, 24, 8),
    Geometry(8, 8, 8),  # one patch
    Geometry(3, 5, 1),
    Geometry(42, 30, 6),  # no multiple of any block
    Geometry(64, 48, 16),
    Geometry(64, 64, 1),  # 4,096 patches, the most there may be
    Geometry(224, 224, 16),
]
TEXTS = ["raw:sage", "raw:grid:3", *(f"whole:{codec}" for codec in CODECS), "whole:webp:4", "whole:dct8:3",
         "whole:avif:5", "whole:jpeg:6"]  # fmt: skip


def seeds(geometry: Geometry) -> list[bytes]:
    rng = np.random.default_rng(0)
    shape = (2, geometry.height, geometry.width, 3)
    pixels = np.clip(np.cumsum(rng.normal(0, 20, shape), axis=1) + 128, 0, 255).astype(np.uint8)
    n = geometry.patches
    seen = EdgeOutput(rng.normal(size=(2, 3)), rng.random((2, n)), rng.normal(size=(2, n, 8)))
    found = []
    mosaics = [f"mosaic:sage:{min(9, n)}:{codec}" for codec in CODECS]
    largest = max_payload(geometry)
    for text in [*TEXTS, *mosaics]:
        for payloads in Scheme.parse(text).encode(pixels, seen, geometry, [120, 400, largest // 2]):
            found += [payload for payload in payloads if payload is not None]
    return found


def mutate(payload: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(payload)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(data) + 1))
        match rng.integers(0, 6):
            case 0 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            case 1 if data:
                data[at % len(data)] = int(rng.integers(0, 256))
            case 2:
                del data[at:]
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 30)))
            case 4:
                del data[at : at + int(rng.integers(1, 30))]
            case _:
                data[at:at] = bytes(data[: int(rng.integers(0, 60))])
    return bytes(data)


def try_one(data: bytes, geometry: Geometry) -> str:
    try:
        evidence = unpack(data, geometry)
    except InputError as error:
        return "refused: " + " ".join(str(error).split()[:5]).rstrip("0123456789")
    k, p, positions = len(evidence.positions), geometry.patch, evidence.positions
    fine = 1 <= k <= geometry.patches and evidence.patches.shape == (k, p, p, 3)
    if not (
        fine and (np.diff(positions) > 0).all() and 0 <= positions[0] <= positions[-1] < geometry.patches
    ):
        raise AssertionError(f"inconsistent evidence from {data.hex()} for {geometry}")
    return "read"


def fuzz(count: int, rng: np.random.Generator) -> tuple[Counter[tuple[Geometry, str]], float]:
    """Try mutated payloads, each geometry in turn; one in ten was made for another geometry.

    Returns:
        How often each outcome came of each geometry, and the processor seconds of the slowest.
    """
    start = {geometry: seeds(geometry) for geometry in GEOMETRIES}
    for geometry, payloads in start.items():
        for payload in payloads:
            if try_one(payload, geometry) != "read":
                raise AssertionError(f"a seed was refused for {geometry}")
    everyone = [payload for payloads in start.values() for payload in payloads]
    outcomes: Counter[tuple[Geometry, str]] = Counter()
    slowest = 0.0
    for number in range(count):
        geometry = GEOMETRIES[number % len(GEOMETRIES)]
        source = everyone if rng.random() < 0.1 else start[geometry]
        data = mutate(source[rng.integers(0, len(source))], rng)
        began = time.process_time()  # a machine that is busy otherwise is no hang
        outcomes[geometry, try_one(data, geometry)] += 1
        seconds = time.process_time() - began
        if seconds > 5:
            raise AssertionError(f"{seconds:.0f} s for {data.hex()} for {geometry}")
        slowest = max(slowest, seconds)
    return outcomes, slowest


def report(outcomes: Counter[tuple[Geometry, str]], slowest: float, memory: int) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total, read = sum(outcomes.values()), sum(n for (_, what), n in outcomes.items() if what == "read")
    print(
        f"{total} mutated payloads: {read} read, {total - read} refused with a message; slowest "
        f"{1000 * slowest:.0f} ms of processor time, peak memory {peak:.0f} MB (limit {memory} MB)"
    )
    for geometry in GEOMETRIES:
        all_of = sum(n for (which, _), n in outcomes.items() if which == geometry)
        shape = f"{geometry.height}x{geometry.width}, patches of {geometry.patch}"
        print(
            f"  {shape:26} {outcomes[geometry, 'read']:6} read, {all_of - outcomes[geometry, 'read']:6} refused"
        )
    messages = Counter[str]()
    for (_, what), n in outcomes.items():
        messages[what] += n
    for what, n in messages.most_common(12):
        print(f"  {n:7d}  {what}")


def cover(args: argparse.Namespace) -> None:
    import atheris

    atheris.instrument_func(unpack)
    for name in (
        "wire.payload",
        "wire.indices",
        "codecs.stripped",
        "codecs.webp",
        "codecs.jpeg",
        "codecs.avif",
        "codecs.dct",
    ):
        module = sys.modules[f"sparing.offload.{name}"]
        for key, value in list(vars(module).items()):
            if getattr(value, "__module__", "") == module.__name__ and type(value).__name__ == "function":
                setattr(module, key, atheris.instrument_func(value))
    with tempfile.TemporaryDirectory() as corpus:
        for number, payload in enumerate(seeds(GEOMETRIES[0])):
            (Path(corpus) / str(number)).write_bytes(payload)
        options = [f"-runs={args.count}", "-timeout=5", "-max_len=4096", "-rss_limit_mb=3000", "-verbosity=1",
                   "-print_final_stats=1", f"-seed={args.seed + 1}", corpus]  # fmt: skip
        atheris.Setup([sys.argv[0], *options], lambda data: try_one(data, GEOMETRIES[0]) and None)
        atheris.Fuzz()


MODEL = """
import numpy as np
from sparing.offload import Geometry, ServerModel

def judge(patches, positions):
    return np.stack([patches.mean((1, 2, 3, 4)), positions.mean(1)], axis=1)

vit = ServerModel(judge, Geometry({height}, {width}, {patch}))
"""


def resident(pid: int, field: str) -> float:
    """Megabytes of a process: VmRSS now, VmHWM at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has ended")


async def bodies(url: str, bodies: list[bytes]) -> tuple[Counter[int], float]:
    """Post bodies, 16 at a time; return the answers' statuses and the seconds of the slowest."""
    import httpx

    statuses: Counter[int] = Counter()
    slowest = 0.0
    slots = asyncio.Semaphore(16)
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:

        async def post(body: bytes) -> None:
            nonlocal slowest
            async with slots:
                began = time.perf_counter()
                answer = await client.post(f"{url}/v1/answer", content=body)
                slowest = max(slowest, time.perf_counter() - began)
            statuses[answer.status_code] += 1
            if answer.status_code not in (200, 400, 413) or (answer.status_code != 200) != (
                "error" in answer.text
            ):
                raise AssertionError(f"{answer.status_code} {answer.text[:200]!r} to {body.hex()}")

        await asyncio.gather(*(post(body) for body in bodies))
    return statuses, slowest


async def requests(port: int, texts: list[bytes]) -> tuple[Counter[str], float]:
    """Send whole mutated requests over raw connections, and wait for what comes, at most a minute.

    What never is a whole request has to be ended by the server's limits on headers and bodies, 10 s each.
    """
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    slots = asyncio.Semaphore(200)

    async def send(text: bytes) -> None:
        nonlocal slowest
        async with slots:
            began = time.perf_counter()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            said = b""
            try:
                writer.write(text)
                await writer.drain()
                async with asyncio.timeout(60):
                    said = await reader.read()
            except ConnectionError:
                pass
            finally:
                writer.close()
            slowest = max(slowest, time.perf_counter() - began)
        status = said.split(b" ", 2)[1].decode() if said.startswith(b"HTTP/1.1 ") else "hung up"
        outcomes[status] += 1
        if status != "hung up" and not (status == "200" or status.startswith("4")):
            raise AssertionError(f"{said[:200]!r} to {text!r}")

    await asyncio.gather(*(send(text) for text in texts))
    return outcomes, slowest


def fuzz_server(geometry: Geometry, count: int, rng: np.random.Generator) -> None:
    """Fuzz one live server and print a line on it.

    Raises:
        AssertionError: another answer than 200 or 4xx, a hang, ill health, or memory that grew.
    """
    import httpx

    start = seeds(geometry)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        sides = {"height": geometry.height, "width": geometry.width, "patch": geometry.patch}
        (Path(folder) / "server.py").write_text(MODEL.format(**sides))
        command = [sys.executable, "-c", "from sparing.cli.main import main; main()", "offload", "serve",
                   "--model", f"{folder}/server.py:vit", "--port", str(port)]  # fmt: skip
        service = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(1200):
                try:
                    httpx.get(f"{url}/healthz", timeout=5)
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            asyncio.run(bodies(url, start * 2))  # all that a healthy life loads is loaded
            before = resident(service.pid, "VmRSS")
            mutated = [mutate(start[rng.integers(0, len(start))], rng) for _ in range(count)]
            statuses, slowest = asyncio.run(bodies(url, mutated))
            head = "POST /v1/answer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n"
            whole = [head.format(len(body)).encode() + body for body in start]
            texts = [mutate(whole[rng.integers(0, len(whole))][:400], rng) for _ in range(count // 8)]
            raw, slowest_raw = asyncio.run(requests(port, texts))
            healthy = httpx.get(f"{url}/healthz", timeout=60).status_code
            again, _ = asyncio.run(bodies(url, start))
            peak = resident(service.pid, "VmHWM")
            if healthy != 200 or set(again) != {200}:
                raise AssertionError(f"the server is unwell: {healthy}, {again}")
            if peak > before + 200:
                raise AssertionError(f"the server grew from {before:.0f} to {peak:.0f} MB")
        finally:
            service.kill()
            service.wait()
    print(
        f"| {geometry.height}x{geometry.width}, patches of {geometry.patch} | {_said(statuses)} | "
        f"{1000 * slowest:.0f} ms | {_said(raw)} | {1000 * slowest_raw:.0f} ms | {before:.0f} | {peak:.0f} |",
        flush=True,
    )


def _said(counts: Counter[int] | Counter[str]) -> str:
    return ", ".join(f"{number} x {what}" for what, number in counts.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--memory", type=int, default=3000, help="limit on the address space, MB")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    if args.http:
        print(
            "| geometry | answers to mutated bodies | slowest | to mutated requests | slowest | MB before | "
            "MB at most |\n" + "|---" * 7 + "|"
        )
        for geometry in (GEOMETRIES[0], GEOMETRIES[4], GEOMETRIES[7]):
            fuzz_server(geometry, args.count // 3, rng)
        return
    resource.setrlimit(resource.RLIMIT_AS, (args.memory << 20, args.memory << 20))
    if args.coverage:
        cover(args)
        return
    report(*fuzz(args.count, rng), args.memory)


if __name__ == "__main__":
    main()
