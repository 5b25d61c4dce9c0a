"""Hostile load on `sparing route serve`, in a process of its own on loopback: what is accepted is answered.

Ordinary requests run beside 500 connections, 1,100 idle ones under a limit of 1,024 files, a model that hangs,
one that raises, decompression bombs, and SIGTERM. Each is compared with the same ordinary requests alone, in
the same run. A request counts as accepted once its body was sent; each must come back with a status. Any check
that fails ends the benchmark with an error.

    python benchmarks/serve_load.py
"""

import argparse
import asyncio
import io
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

import machine
from route_serve import TestImage, post, stand_in
from timing import table

EXPERTS = """
import io, time
import numpy as np
from PIL import Image

def judge(values, weight):
    if any(value.endswith(b"raise") for value in values):
        raise RuntimeError("on purpose")
    while any(value.endswith(b"hang") for value in values):
        time.sleep(1)
    if any(value.endswith(b"slow") for value in values):
        time.sleep(0.2)
    means = [np.asarray(Image.open(io.BytesIO(v)).convert("RGB")).mean((0, 1)) / 255 for v in values]
    scores = np.exp(weight * np.array(means))
    return scores / scores.sum(axis=1, keepdims=True)

def small(values):
    return judge(values, 1.0)

def large(values):
    return judge(values, 3.0)
"""
BATCH_SECONDS = 2
PAUSE = 0.05
"""How long a hostile client waits between two requests: what is measured shares two cores with its clients."""


@dataclass
class Seen:
    """What the clients of one scenario saw."""

    codes: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def quantile(self, q: float) -> float:
        return 1000 * float(np.percentile(self.seconds, q)) if self.seconds else float("nan")


def images(number: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(number):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8)).save(buffer, "JPEG")
        made.append(buffer.getvalue())
    return made


def bomb() -> bytes:
    """A PNG of 10 KB that claims 89 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (9400, 9400)).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def service(router: Path, *options: str, files: int | None = None) -> Iterator[tuple[int, subprocess.Popen]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from sparing.cli.main import main; main()", "route", "serve", str(router),
               "--port", str(port), "--batch-seconds", str(BATCH_SECONDS), *options]  # fmt: skip

    def limit() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ}, preexec_fn=limit)
        process.log = log  # type: ignore[attr-defined]
        try:
            while process.poll() is None and not healthy(port):
                time.sleep(0.05)
            yield port, process
        finally:
            process.kill()
            process.wait()


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


async def client(
    port: int, bodies: Callable[[], bytes | None], seen: Seen, *, pause: float = 0, again: bool = False
) -> None:
    """Send one request after the other until there is none left, on a connection that is opened as needed.

    With `again`, a request that is answered 503 is sent again later, as the answer asks for.
    """
    reader = writer = None
    body = bodies()
    while body is not None:
        await asyncio.sleep(pause)
        began = time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            seen.codes["not accepted"] += 1
            return
        try:
            code, _ = await post(reader, writer, body)
            seen.codes[code] += 1
            if code == 200:
                seen.seconds.append(time.perf_counter() - began)
            if code == 503 and again:
                await asyncio.sleep(0.1)
                continue
        except (OSError, asyncio.IncompleteReadError):
            seen.codes["lost"] += 1
            writer.close()
            writer = None
        body = bodies()
    if writer is not None:
        writer.close()


async def ordinary(
    port: int, bodies: list[bytes], clients: int, requests: int, *, again: bool = False
) -> Seen:
    seen, left = Seen(), iter([bodies[at % len(bodies)] for at in range(requests)])
    await asyncio.gather(*(client(port, lambda: next(left, None), seen, again=again) for _ in range(clients)))
    return seen


async def beside(port: int, bodies: list[bytes], clients: int, requests: int, others: list[bytes]) -> tuple:
    """Ordinary requests, and beside them others, one after the other until the ordinary ones are done."""
    done, hostile = asyncio.Event(), Seen()
    turn = iter(range(10**9))

    def other() -> bytes | None:
        return None if done.is_set() else others[next(turn) % len(others)]

    tasks = [asyncio.create_task(client(port, other, hostile, pause=PAUSE)) for _ in others]
    seen = await ordinary(port, bodies, clients, requests)
    done.set()
    await asyncio.gather(*tasks)
    return seen, hostile


async def hanging(port: int, bodies: list[bytes], clients: int, requests: int) -> tuple[Seen, Seen, float]:
    """Ordinary requests, and one that hangs among them; how long nothing was answered."""
    hostile, one = Seen(), iter([bodies[0] + b"hang"])
    answers: list[float] = []

    seen = Seen()
    left = iter([bodies[at % len(bodies)] for at in range(requests)])

    def body() -> bytes | None:
        answers.append(time.perf_counter())
        return next(left, None)

    tasks = [asyncio.create_task(client(port, body, seen, again=True)) for _ in range(clients)]
    await asyncio.sleep(0.2)
    await client(port, lambda: next(one, None), hostile)
    await asyncio.gather(*tasks)
    return seen, hostile, max(np.diff(answers))


async def idle(port: int, number: int) -> list[socket.socket]:
    """Open connections that never send anything."""
    opened = []
    for _ in range(number):
        try:
            opened.append(socket.create_connection(("127.0.0.1", port), timeout=2))
        except OSError:
            break
        if len(opened) % 100 == 0:
            await asyncio.sleep(0.01)
    return opened


def memory(process: subprocess.Popen) -> int:
    """The largest resident memory of a service and its child so far, in MB."""
    pids, total = [process.pid], 0
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [*pids, *map(int, children)]:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        total += int(found[1]) if found else 0
    return total // 1024


def log_bytes(process: subprocess.Popen) -> int:
    return os.fstat(process.log.fileno()).st_size  # type: ignore[attr-defined]


def counted(codes: Counter) -> str:
    return ", ".join(f"{count} x {code}" for code, count in sorted(codes.items(), key=str))


def answered(seen: Seen) -> None:
    assert not seen.codes["lost"], seen.codes
    assert not seen.codes["not accepted"], seen.codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=1500, help="ordinary requests per scenario")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve_load.md")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    before = machine.load()
    bodies = images(100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "experts.py").write_text(EXPERTS)
        experts = [f"{each}={folder / 'experts.py'}:{each}" for each in ("small", "large")]
        router = stand_in(folder / "router", experts, [TestImage(body) for body in bodies])
        lines = measure(router, bodies, args)
    shown = " ".join(["benchmarks/serve_load.py", *sys.argv[1:]])
    text = "\n".join([
        "# Hostile load on `sparing route serve`", "",
        f"Command: `python {shown}`  ",
        f"Machine: {machine.describe()}; {before} before, {machine.load()} after", "", *lines, "",
    ])  # fmt: skip
    print(text)
    args.out.write_text(text)


def measure(router: Path, bodies: list[bytes], args: argparse.Namespace) -> list[str]:
    rows: list[list[object]] = []
    clients, requests = args.clients, args.requests

    def row(what: str, seen: Seen, alone: Seen, note: str) -> None:
        times = seen.quantile(99) / alone.quantile(99)
        rows.append([what, counted(seen.codes), f"{seen.quantile(50):.1f}", f"{seen.quantile(99):.1f}",
                     f"{times:.2f}", note])  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)

    with service(router) as (port, process):
        asyncio.run(ordinary(port, bodies, clients, 200))
        alone = asyncio.run(ordinary(port, bodies, clients, requests))
        answered(alone)
        row(f"alone, {clients} clients", alone, alone, f"{memory(process)} MB")

        seen, hostile = asyncio.run(beside(port, bodies, clients, requests, [bodies[0] + b"raise"]))
        answered(seen)
        assert set(hostile.codes) == {500}, hostile.codes
        row("beside a model that raises", seen, alone, f"its requests: {counted(hostile.codes)}")

        bombs = [bomb()] * 12
        seen, hostile = asyncio.run(beside(port, bodies, clients, requests, bombs))
        answered(seen)
        assert set(hostile.codes) == {400}, hostile.codes
        row(
            f"beside 12 clients that send bombs ({len(bombs[0]):,} bytes, 88 million pixels)", seen, alone,
            f"bombs: {counted(hostile.codes)}; {memory(process)} MB",
        )  # fmt: skip

        wide = asyncio.run(ordinary(port, bodies, 500, max(requests, 2000)))
        answered(wide)
        assert set(wide.codes) <= {200, 503}, wide.codes
        row("500 connections at once", wide, alone, f"{memory(process)} MB")

        seen, hostile, down = asyncio.run(hanging(port, bodies, clients, requests))
        answered(seen)
        assert seen.codes[200] == requests, seen.codes
        assert hostile.codes == {503: 1}, hostile.codes
        row(
            f"one request on which the model hangs ({BATCH_SECONDS} s per batch allowed)", seen, alone,
            f"it: {counted(hostile.codes)}; nothing answered for {down:.1f} s, 503 are sent again",
        )  # fmt: skip
        again = asyncio.run(ordinary(port, bodies, clients, requests))
        answered(again)
        row("alone again", again, alone, f"{memory(process)} MB, log of {log_bytes(process):,} bytes")

    with service(router, files=1024) as (port, process):
        asyncio.run(ordinary(port, bodies, clients, 200))

        async def with_idle() -> tuple[Seen, int]:
            opened = await idle(port, 1100)
            seen = await ordinary(port, bodies, clients, requests)
            for each in opened:
                each.close()
            return seen, len(opened)

        seen, opened = asyncio.run(with_idle())
        answered(seen)
        row(
            f"beside {opened} idle connections, 1,024 files allowed", seen, alone,
            f"log of {log_bytes(process):,} bytes",
        )  # fmt: skip
        assert log_bytes(process) < 10_000

    with service(router) as (port, process):
        asyncio.run(ordinary(port, bodies, clients, 200))

        async def stopped() -> Seen:
            seen, body = Seen(), bodies[0] + b"slow"
            opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(500)]

            async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                began = time.perf_counter()
                code, _ = await post(reader, writer, body)
                seen.codes[code] += 1
                if code == 200:
                    seen.seconds.append(time.perf_counter() - began)
                writer.close()

            tasks = [asyncio.create_task(one(*each)) for each in opened]
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            await asyncio.gather(*tasks)
            return seen

        seen = asyncio.run(stopped())
        assert process.wait(60) == 0
        answered(seen)
        assert sum(seen.codes.values()) == 500, seen.codes
        row("SIGTERM with 500 requests under way", seen, alone, "exit code 0")
    head = ["scenario", "ordinary requests", "P50 ms", "P99 ms", "times the P99 alone", ""]
    return table(head, rows)


if __name__ == "__main__":
    main()
