"""Faults between edge and server, with real processes: each request is answered once, and counted once.

Starts `sparing offload serve` with a small made-up model and lets a client meet a healthy server, one killed
in the middle, a slow one, none, one that answers garbage, a wrong token, and a relay that cuts connections
off; and, as root on Linux, a link between two network namespaces, which loses 10 % of its packets if the
kernel has netem.

    python benchmarks/offload_faults.py --requests 300
"""

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from sparing.offload import Choice, EdgeModel, EdgeOutput, Gate, Geometry, Scheme, prepare, summarise
from sparing.offload.client import Client

GEOMETRY = Geometry(32, 32, 4)
MODEL = """
import os, time
import numpy as np
from sparing.offload import Geometry, ServerModel

def judge(patches, positions):
    time.sleep(float(os.environ.get("DELAY", "0.01")))
    bright = patches.mean((1, 2, 3, 4)) / 10 - 12.8
    return np.stack([bright, -bright], axis=1)

vit = ServerModel(judge, Geometry(32, 32, 4))
"""


def describe(pixels: np.ndarray) -> EdgeOutput:
    cut = GEOMETRY.cut(pixels).reshape(len(pixels), 64, -1).astype(float)
    bright = cut.mean((1, 2)) / 40 - 3.2
    return EdgeOutput(np.stack([bright, -bright], axis=1), cut.std(2), cut)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def service(folder: Path, host="127.0.0.1", inside=(), delay=0.01) -> Iterator[tuple[str, subprocess.Popen]]:
    port = free_port()
    command = [*inside, sys.executable, "-c", "from sparing.cli.main import main; main()", "offload", "serve",
               "--model", str(folder / "server.py:vit"), "--port", str(port), "--host", host,
               "--token-file", str(folder / "token")]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "DELAY": str(delay)}, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://{host}:{port}/healthz", timeout=2)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://{host}:{port}", process
    finally:
        process.kill()
        process.wait()


def run(name: str, url: str, requests: list, *, token="s3cret", after=None, **options) -> None:  # noqa: S107
    async def answer() -> list:
        async with Client(url, token=token, **options) as client:
            tasks = [asyncio.create_task(client.answer(request)) for request in requests]
            if after is not None:
                done = 0
                waiting = sum(request.payload is not None for request in requests)
                while done < len(requests) - 2 * waiting // 3:
                    await asyncio.sleep(0.005)
                    done = sum(task.done() for task in tasks)
                after()
            return await asyncio.gather(*tasks)

    started = time.perf_counter()
    answers = asyncio.run(answer())
    seconds = time.perf_counter() - started
    total = summarise(answers)
    by = total["answered_by"]
    because = {why: count for why, count in total["edge_answered_because"].items() if why != "confident"}
    offloaded = sum(request.payload is not None for request in requests)
    if not len(answers) == sum(by.values()) == len(requests):
        raise AssertionError(f"{name}: {len(requests)} requests, answered {by}")
    if by.get("server", 0) + sum(because.values()) != offloaded:
        raise AssertionError(f"{name}: {offloaded} offloaded, but {by} and {because}")
    print(
        f"| {name} | {len(requests)} | {offloaded} | {by.get('server', 0)} | {total['tries']} | "
        f"{'; '.join(f'{count} x {why}' for why, count in because.items()) or '-'} | {seconds:.1f} |",
        flush=True,
    )


async def garbage(reader, writer) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + os.urandom(500))
    writer.close()


def cutting_relay(target: str):
    """Pass connections on to a server, but cut one in twenty packets off with its connection."""
    url = httpx.URL(target)
    rng = np.random.default_rng(0)

    async def pump(source, sink) -> None:
        while data := await source.read(65536):
            if rng.random() < 0.05:
                break
            sink.write(data)

    async def relay(reader, writer) -> None:
        upstream, downstream = await asyncio.open_connection(url.host, url.port)
        pumps = [asyncio.create_task(pump(reader, downstream)), asyncio.create_task(pump(upstream, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pumps:
            task.cancel()
        writer.close()
        downstream.close()

    return relay


@contextmanager
def listening(handler) -> Iterator[str]:
    """Serve connections from a thread of this process."""

    async def stop() -> None:
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(handler, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def namespace(*, loss: bool) -> Iterator[tuple[str, list[str]]]:
    """A network namespace behind a pair of virtual devices that lose packets both ways, or are slow."""
    ip, tc = shutil.which("ip"), shutil.which("tc")
    name = f"sparing{os.getpid() % 10000}"
    near, far = f"sp{os.getpid() % 10000}a", f"sp{os.getpid() % 10000}b"
    inside = [ip, "netns", "exec", name]
    kind = "netem loss 10% delay 10ms rate 1mbit" if loss else "tbf rate 1mbit burst 4kb latency 500ms"
    commands = [
        [ip, "netns", "add", name],
        [ip, "link", "add", near, "type", "veth", "peer", "name", far, "netns", name],
        [ip, "addr", "add", "10.213.7.1/30", "dev", near],
        [ip, "link", "set", near, "up"],
        [*inside, ip, "addr", "add", "10.213.7.2/30", "dev", far],
        [*inside, ip, "link", "set", far, "up"],
        [tc, "qdisc", "add", "dev", near, "root", *kind.split()],
        [*inside, tc, "qdisc", "add", "dev", far, "root", *kind.split()],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        yield "10.213.7.2", inside
    finally:
        subprocess.run([ip, "netns", "del", name], check=False, capture_output=True)
        subprocess.run([ip, "link", "del", near], check=False, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    shade = rng.normal(128, 40, (args.requests, 1, 1, 1)) + rng.normal(0, 20, (args.requests, 32, 32, 3))
    pixels = np.clip(shade, 0, 255).astype(np.uint8)
    choice = Choice(Scheme.parse("whole:dct16"), 200)
    requests = prepare(EdgeModel(describe, GEOMETRY), Gate(threshold=0.2), choice, pixels)
    print("| fault | requests | offloaded | by the server | tries | otherwise by the edge, because | s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server.py").write_text(MODEL)
        (folder / "token").write_text("s3cret")
        with service(folder) as (url, _):
            run("none", url, requests, timeout=10)
        with service(folder, delay=0.05) as (url, process):
            run("killed (-9) after a third", url, requests, timeout=5, after=process.kill, concurrency=4)
        with service(folder, delay=3) as (url, _):
            run("slow: 3 s a batch, timeout 0.5 s", url, requests, timeout=0.5, concurrency=64)
        run("nobody listens", f"http://127.0.0.1:{free_port()}", requests, timeout=2)
        with listening(garbage) as url:
            run("garbage", url, requests, timeout=2)
        with service(folder) as (target, _), listening(cutting_relay(target)) as url:
            run("relay that cuts off connections, at 5 % of packets", url, requests, timeout=5)
        with service(folder) as (url, _):
            run("token wrong", url, requests, token="other", timeout=5)  # noqa: S106
        if os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc"):
            try:
                with namespace(loss=True) as (host, inside), service(folder, host, inside) as (url, _):
                    run("namespaces, 10 % of packets lost", url, requests, timeout=5)
            except subprocess.CalledProcessError as error:
                print(f"(no lossy link: {error.stderr.decode().strip()})")
                with namespace(loss=False) as (host, inside), service(folder, host, inside) as (url, _):
                    run("namespaces, 1 Mbit/s", url, requests, timeout=5)


if __name__ == "__main__":
    main()
