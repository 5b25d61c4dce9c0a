"""Faults between edge and server, with real processes: each request is answered once, and by its own answer.

Starts `sparing offload serve` with a made-up model whose distribution is a hash of what it got, and lets
`answer_all` (what `sparing offload send` runs) meet a healthy server, one killed in the middle, a slow one, an
overloaded one, none, one that answers garbage, a wrong token, a relay that cuts connections off, and, as root
on Linux, a link to another network namespace that loses 10 % of its packets.

Each time it checks the table of answers, id by id, against what that id's own payload must be answered; how
often the model was given each payload (it keeps a journal) against that id's tries; and the sum of tries
against the server's own counters (`/metrics`). Before that it checks that these checks can fail.

    python benchmarks/offload_faults.py --requests 300
"""

import argparse
import asyncio
import hashlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import lossy_link
from sparing.data.samples import open_samples
from sparing.data.tables import TableWriter
from sparing.numerics.distributions import softmax
from sparing.offload import Choice, EdgeModel, EdgeOutput, Gate, Geometry, Scheme
from sparing.offload.client import Client
from sparing.offload.session import answer_all, answers_table
from sparing.offload.wire.payload import unpack

GEOMETRY = Geometry(32, 32, 4)
CLASSES = 16
GATE = Gate(threshold=0.2)
CHOICE = Choice(Scheme.parse("whole:dct16"), 200)
MODEL = """
import hashlib, os, time
import numpy as np
from sparing.offload import Geometry, ServerModel

def judge(patches, positions):
    time.sleep(float(os.environ.get("DELAY", "0.01")))
    digests = [hashlib.sha256(p.tobytes() + q.tobytes()).digest() for p, q in zip(patches, positions)]
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write("".join(digest.hex() + "\\n" for digest in digests))
    return np.array([list(digest[:16]) for digest in digests]) / 32.0

vit = ServerModel(judge, Geometry(32, 32, 4))
"""


def describe(pixels: np.ndarray) -> EdgeOutput:
    """Be sure of class 0 or 1 where an image is bright or dark, and unsure in between."""
    cut = GEOMETRY.cut(pixels).reshape(len(pixels), 64, -1).astype(float)
    bright = cut.mean((1, 2)) / 8 - 16
    logits = np.zeros((len(pixels), CLASSES))
    logits[:, 0], logits[:, 1] = bright, -bright
    return EdgeOutput(logits, cut.std(2), cut)


EDGE = EdgeModel(describe, GEOMETRY)


@dataclass(frozen=True)
class Expected:
    """What must come of one image: the edge's answer or, with a digest of its evidence, the server's."""

    edge: np.ndarray
    server: np.ndarray
    digest: str


def expect(pixels: np.ndarray) -> dict[str, Expected]:
    """Work out, without client and server, what belongs to each id."""
    found = {}
    for row, image in enumerate(pixels):
        seen = EDGE(image[None])
        digest, server = "", np.zeros(CLASSES)
        if GATE.offloads(seen.probs)[0]:
            payload = CHOICE.scheme.encode(image[None], seen, GEOMETRY, [CHOICE.fill])[0][0]
            evidence = unpack(payload or b"", GEOMETRY)
            hashed = hashlib.sha256(evidence.patches.tobytes() + evidence.positions.tobytes()).digest()
            digest, server = hashed.hex(), softmax(np.array([list(hashed[:CLASSES])]) / 32.0)[0]
        found[f"s{row}"] = Expected(seen.probs[0], server, digest)
    digests = [one.digest for one in found.values() if one.digest]
    if len(set(digests)) < len(digests):
        raise AssertionError("two images have the same evidence, so their answers cannot be told apart")
    return found


def check(
    rows: list[dict[str, Any]],
    expected: dict[str, Expected],
    judged: Counter[str] | None,
    counted: Counter[str] | None,
    *,
    all_arrive: bool,
) -> None:
    """Compare the answers with what the payloads demand, the model's journal and the server's counters.

    Args:
        rows: of the answers table.
        expected: by id.
        judged: how often the model was given each evidence, by digest; None where there is no model.
        counted: the server's answers by HTTP status; None where it did not live to tell.
        all_arrive: whether each try must have been counted by the server, rather than some at most.
    """

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise AssertionError(what)

    ids = Counter(row["id"] for row in rows)
    demand(set(ids) == set(expected), f"lost or invented: {sorted(set(ids) ^ set(expected))}")
    demand(max(ids.values()) == 1, f"answered twice: {ids.most_common(1)}")
    by_server = 0
    for row in rows:
        own = expected[row["id"]]
        wanted = own.server if row["by"] == "server" else own.edge
        demand(np.allclose(row["probs"], wanted, atol=1e-5), f"{row['id']}: not its own answer")
        demand(bool(own.digest) == row["offloaded"], f"{row['id']}: the gate was not followed")
        demand((row["by"] == "edge") == bool(row["why"]), f"{row['id']}: why {row['why']!r}")
        demand(row["offloaded"] or row["tries"] == 0, f"{row['id']}: sent, though the edge was sure")
        if row["by"] == "server":
            by_server += 1
            demand(row["tries"] >= 1, f"{row['id']}: answered without a try")
            demand(judged is None or judged[own.digest] >= 1, f"{row['id']}: the model never saw it")
        if judged is not None and own.digest:
            demand(judged[own.digest] <= row["tries"], f"{row['id']}: judged more often than tried")
    strangers = set(judged or ()) - {own.digest for own in expected.values()}
    demand(not strangers, f"the model saw {len(strangers)} pieces of evidence that nobody sent")
    if counted is not None:
        tries, total = sum(row["tries"] for row in rows), sum(counted.values())
        said = f"{tries} tries, and the server counted {dict(counted)}"
        demand(total == tries if all_arrive else total <= tries, said)
        demand(counted["200"] == by_server if all_arrive else counted["200"] >= by_server, said)
        demand(judged is None or sum(judged.values()) == counted["200"], f"{said}; judged {judged}")


def check_the_checks(
    rows: list[dict[str, Any]], expected: dict[str, Expected], judged: Counter[str], counted: Counter[str]
) -> None:
    """Spoil what is right in ways that faults could, and insist that each is noticed."""
    sent = [at for at, row in enumerate(rows) if row["by"] == "server"]
    one, other = rows[sent[0]], rows[sent[1]]
    swapped = list(rows)
    swapped[sent[0]], swapped[sent[1]] = {**one, "probs": other["probs"]}, {**other, "probs": one["probs"]}
    uncounted = list(rows)
    uncounted[sent[0]] = {**one, "tries": 0}
    twice = judged + Counter({expected[one["id"]].digest: 1})
    spoilt = {
        "a lost answer": (rows[1:], judged, counted),
        "an answer given twice": ([*rows, rows[0]], judged, counted),
        "two answers swapped": (swapped, judged, counted),
        "a try that is not in the account": (uncounted, judged, counted),
        "a request that the server did not count": (rows, judged, counted - Counter({"200": 1})),
        "a request that the account does not know": (rows, judged, counted + Counter({"500": 1})),
        "a payload judged twice": (rows, twice, counted),
    }
    for name, (a, b, c) in spoilt.items():
        try:
            check(a, expected, b, c, all_arrive=True)
        except AssertionError:
            continue
        raise AssertionError(f"the checks do not notice {name}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Service:
    """`sparing offload serve` in a process of its own, its journal and its counters."""

    def __init__(
        self, folder: Path, *, host: str, inside: list[str], delay: float, options: list[str]
    ) -> None:
        self.url = f"http://{host}:{free_port()}"
        self.journal = folder / f"journal{time.monotonic_ns()}"
        self.journal.touch()
        command = [*inside, sys.executable, "-c", "from sparing.cli.main import main; main()", "offload", "serve",
                   "--model", str(folder / "server.py:vit"), "--port", self.url.rsplit(":")[-1], "--host", host,
                   "--token-file", str(folder / "token"), *options]  # fmt: skip
        environment = {**os.environ, "DELAY": str(delay), "JOURNAL": str(self.journal)}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            try:
                httpx.get(f"{self.url}/healthz", timeout=2)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        self.journal.write_text("")  # without the blank image that the server starts with

    def judged(self) -> Counter[str]:
        return Counter(self.journal.read_text().split())

    def counted(self) -> Counter[str]:
        with httpx.Client(transport=httpx.HTTPTransport(retries=3), timeout=120, trust_env=False) as client:
            answer = client.get(f"{self.url}/metrics", headers={"authorization": "Bearer s3cret"})
        answer.raise_for_status()
        return Counter(
            {
                sample.labels["status"]: int(sample.value)
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
                if sample.name == "http_requests_total" and sample.labels["path"] == "/v1/answer"
            }
        )

    def settled(self) -> Counter[str]:
        """Wait until nothing has been counted for 5 seconds: what clients gave up on is still worked off."""
        last, since = self.counted(), time.monotonic()
        while time.monotonic() - since < 5:
            time.sleep(0.5)
            if (now := self.counted()) != last:
                last, since = now, time.monotonic()
        return last


@contextmanager
def service(
    folder: Path, host: str = "127.0.0.1", inside: tuple[str, ...] = (), delay: float = 0.01, **options: int
) -> Iterator[Service]:
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    running = Service(folder, host=host, inside=list(inside), delay=delay, options=flags)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def answer_table(
    folder: Path,
    url: str,
    token: str,
    watch: Callable[[], bool] | None,
    kill: Callable[[], None],
    **options: Any,
) -> list[dict[str, Any]]:
    """Answer all samples into a table, as `sparing offload send` does, and read it back."""

    async def answer() -> list[Any]:
        samples = open_samples(folder / "images.parquet")
        answers: list[Any] = []

        async def watching() -> None:
            while watch is not None and not watch():
                await asyncio.sleep(0.005)
            kill()

        watcher = asyncio.create_task(watching()) if watch else None
        async with Client(url, token=token, **options) as client:
            with TableWriter(folder / "answers.parquet") as writer:
                async for batch in answer_all(samples, EDGE, client, GATE, CHOICE):
                    ids = samples.ids[len(answers) : len(answers) + len(batch)]
                    writer.write(answers_table(ids, batch))
                    answers += batch
        if watcher is not None:
            await watcher
        return answers

    asyncio.run(answer())
    rows: list[dict[str, Any]] = pq.read_table(folder / "answers.parquet").to_pylist()
    return rows


class Run:
    """Runs one fault after the other and prints a line for each."""

    def __init__(self, folder: Path, expected: dict[str, Expected]) -> None:
        self.folder, self.expected = folder, expected

    def __call__(
        self,
        name: str,
        url: str,
        *,
        server: Service | None = None,
        stranger: Counter[str] | None = None,
        token: str = "s3cret",  # noqa: S107
        kill_after: int = 0,
        all_arrive: bool = True,
        **options: Any,
    ) -> list[dict[str, Any]]:
        started = time.perf_counter()

        def reached() -> bool:
            return server is not None and sum(server.judged().values()) >= kill_after

        def kill() -> None:
            if server is not None:
                server.process.kill()

        rows = answer_table(self.folder, url, token, reached if kill_after else None, kill, **options)
        seconds = time.perf_counter() - started
        counted = server.settled() if server is not None and not kill_after else stranger
        check(rows, self.expected, server and server.judged(), counted, all_arrive=all_arrive)
        because = Counter(row["why"] for row in rows if row["offloaded"] and row["by"] == "edge")
        by_server = sum(row["by"] == "server" for row in rows)
        print(
            f"| {name} | {len(rows)} | {sum(row['offloaded'] for row in rows)} | {by_server} | "
            f"{sum(row['tries'] for row in rows)} | "
            f"{'-' if counted is None else ', '.join(f'{n} x {status}' for status, n in counted.items()) or 0} | "
            f"{'-' if server is None else sum(server.judged().values())} | "
            f"{'; '.join(f'{count} x {why}' for why, count in because.most_common()) or '-'} | {seconds:.1f} |",
            flush=True,
        )
        return rows


def garbage(seen: Counter[str]) -> Any:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.read(100)).startswith(b"POST"):
            seen["garbage"] += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + os.urandom(500))
        writer.close()

    return handle


def cutting_relay(target: str) -> Any:
    """Pass connections on to a server, but cut one in twenty packets off with its connection."""
    url = httpx.URL(target)
    rng = np.random.default_rng(0)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if rng.random() < 0.05:
                break
            sink.write(data)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(url.host, url.port)
        pumps = [asyncio.create_task(pump(reader, downstream)), asyncio.create_task(pump(upstream, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pumps:
            task.cancel()
        writer.close()
        downstream.close()

    return relay


@contextmanager
def listening(handler: Any) -> Iterator[str]:
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


def write_samples(folder: Path, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    shade = rng.normal(128, 40, (count, 1, 1, 1)) + rng.normal(0, 20, (count, 32, 32, 3))
    pixels = np.clip(shade, 0, 255).astype(np.uint8)
    images = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        images.append(buffer.getvalue())
    table = pa.table({"id": [f"s{row}" for row in range(count)], "image": images})
    pq.write_table(table, folder / "images.parquet")
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    args = parser.parse_args()
    print(
        "| fault | requests | offloaded | by the server | tries | the server's own count | judged | "
        "otherwise by the edge, because | s |\n" + "|---" * 9 + "|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server.py").write_text(MODEL)
        (folder / "token").write_text("s3cret")
        expected = expect(write_samples(folder, args.requests))
        offloaded = sum(bool(own.digest) for own in expected.values())
        run = Run(folder, expected)
        with service(folder) as up:
            rows = run("none", up.url, server=up, timeout=30)
            if sum(row["by"] == "server" for row in rows) != offloaded:
                raise AssertionError("a healthy server did not answer everything")
            check_the_checks(rows, expected, up.judged(), up.counted())
        with service(folder, delay=0.05) as up:
            run(
                "killed (-9) after a third",
                up.url,
                server=up,
                timeout=5,
                kill_after=offloaded // 3,
                concurrency=4,
            )
        with service(folder, delay=2) as up:
            run("slow: 2 s a batch, timeout 0.5 s", up.url, server=up, timeout=0.5, concurrency=64,
                all_arrive=False)  # fmt: skip
        with service(folder, delay=0.05, max_batch=1, max_queue=2) as up:
            run("overloaded: a queue of 2", up.url, server=up, timeout=30, concurrency=16)
        run("nobody listens", f"http://127.0.0.1:{free_port()}", stranger=Counter(), timeout=2)
        seen: Counter[str] = Counter()
        with listening(garbage(seen)) as url:
            run("garbage", url, stranger=seen, timeout=5)
        with service(folder) as up, listening(cutting_relay(up.url)) as url:
            run("relay that cuts off connections, at 5 % of packets", url, server=up, timeout=30,
                       all_arrive=False)  # fmt: skip
        with service(folder) as up:
            run("token wrong", up.url, server=up, token="other", timeout=30)  # noqa: S106
        against = lossy_link.reason_against()
        if against:
            print(f"\n(no lossy link: {against})")
            return
        with (
            lossy_link.lossy_link(loss=0.1, delay=0.01, rate=1e6) as (inside, packets),
            service(folder, lossy_link.FAR, tuple(inside)) as up,
        ):
            run(
                "a link that loses 10 % of packets, 1 Mbit/s", up.url, server=up, timeout=30, all_arrive=False
            )
            print(f"\nThe lossy link passed {packets['passed']} packets and lost {packets['lost']}.")


if __name__ == "__main__":
    main()
