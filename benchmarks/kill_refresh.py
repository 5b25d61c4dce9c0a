"""Kill a refresh at random moments, run the same command again, and see that nothing is lost or repeated.

    python benchmarks/kill_refresh.py --kills 50

Every kill is a SIGKILL of the real command, which learns while it spends: a third of the answers changes, and a
column tells which. All the while, a reader opens the newest version over and over; after
each kill, every committed version is opened. Each must hold all rows, as they were before the round or as they are
after it, never anything between. When a round is done, its export must equal, bit for
bit, that of an undisturbed run, and the model's own log must show no forward twice except in chunks that were
in flight.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from machine import describe
from sparing.cache import Cache, export, import_outputs

ROWS, CLASSES = 6_000, 20

MODEL = f"""
import os
import time
import numpy as np

def forward(values):
    with open(os.environ["FORWARD_LOG"], "a") as log:
        log.write("".join(f"{{v}}\\n" for v in values))
    time.sleep(0.01)
    logits = np.stack([np.random.default_rng(int(v)).normal(size={CLASSES}) for v in values])
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
"""


def prepare(folder: Path) -> list[str]:
    ids = pa.array([f"row-{number:06d}" for number in range(ROWS)])
    logits = np.stack([np.random.default_rng(number).normal(size=CLASSES) for number in range(ROWS)])
    moved = np.arange(ROWS) % 3 == 0
    logits[moved] = np.roll(logits[moved], 1, axis=1)
    probs = (np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)).astype(np.float32)
    import_outputs(folder / "start.lance", (ids, probs), "old")
    group = [f"group {number % 6}" for number in range(ROWS)]
    samples = pa.table({"id": ids, "value": np.arange(ROWS), "group": group})
    pq.write_table(samples, folder / "samples.parquet")
    (folder / "model.py").write_text(MODEL)
    return [
        str(Path(sys.executable).with_name("sparing")), "refresh", str(folder / "cache.lance"),
        "--model", f"new={folder / 'model.py'}:forward", "--samples", str(folder / "samples.parquet"),
        "--column", "value", "--features", "group", "--budget", "50%", "--json",
    ]  # fmt: skip


def fresh(folder: Path) -> None:
    shutil.rmtree(folder / "cache.lance", ignore_errors=True)
    shutil.copytree(folder / "start.lance", folder / "cache.lance")
    (folder / "log").write_text("")


def export_bytes(cache: Path, folder: Path, version: int | None = None) -> bytes:
    export(Cache.open(cache, version), folder / "export.parquet")
    table = pq.read_table(folder / "export.parquet")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kill_refresh.md")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = prepare(folder)
        environment = {**os.environ, "FORWARD_LOG": str(folder / "log")}
        fresh(folder)
        before = export_bytes(folder / "cache.lance", folder)
        started = time.monotonic()
        done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE)
        span = time.monotonic() - started
        learning = json.loads(done.stdout)["learning"]
        after = export_bytes(folder / "cache.lance", folder)
        print(f"undisturbed: {span:.1f} s for {ROWS // 2:,} forwards")
        reader = Reader(folder, before, after)
        kills = rounds = most_repeated = versions = 0
        phases: collections.Counter[str] = collections.Counter()
        while kills < arguments.kills:
            with reader.paused:
                fresh(folder)
            killed_here = 0
            while True:
                process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
                time.sleep(rng.uniform(0.05, span))
                killed = process.poll() is None
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += killed
                killed_here += killed
                round_ = check(folder, before, after)
                versions += round_ + 1
                if killed:
                    staged = (folder / "cache.lance" / "_sparing" / "round" / "request.json").exists()
                    phase = "running" if staged else "starting or planning"
                    phases["committed" if round_ else phase] += 1
                if round_ or not killed:
                    break
            counts = collections.Counter((folder / "log").read_text().split())
            repeated = sum(n - 1 for n in counts.values())
            assert len(counts) == ROWS // 2, len(counts)
            assert repeated <= 128 * killed_here, (repeated, killed_here)
            most_repeated = max(most_repeated, repeated)
            rounds += 1
            print(
                f"round {rounds}: {killed_here} kills, {repeated} forwards repeated, export equal", flush=True
            )
        reader.stop()
    text = "\n".join(
        [
            "# Kills during a refresh",
            "",
            f"Command: `python benchmarks/kill_refresh.py --kills {arguments.kills} --seed {arguments.seed}`  ",
            f"Machine: {describe()}",
            "",
            f"- {kills} SIGKILLs over {rounds} refreshes of {ROWS:,} rows at 50 % ({span:.1f} s undisturbed),",
            f"  in {learning['slices']} slices each, {learning['learned']} of them ranked by what was learned,",
            f"  at moments drawn uniformly: {', '.join(f'{n} while {phase}' for phase, n in phases.items())}",
            f"- exports of a finished round equal, bit for bit, to an undisturbed run's: {rounds} of {rounds}",
            f"- reads of the newest version meanwhile: {reader.reads:,}, every one whole",
            f"- committed versions opened and compared after kills: {versions}, all whole",
            f"- forwards repeated: at most {most_repeated} in one refresh, never more than the chunk in",
            "  flight (128 rows) per kill",
        ]
    )
    print(text)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(text + "\n")


class Reader(threading.Thread):
    """Reads the newest version over and over, as another process would, and compares it with what it may be."""

    def __init__(self, folder: Path, before: bytes, after: bytes) -> None:
        super().__init__(daemon=True)
        self.folder, self.allowed = folder, (before, after)
        self.paused = threading.Lock()
        self.reads = 0
        self.problem: BaseException | None = None
        self.done = False
        self.scratch = folder / "reader"
        self.scratch.mkdir()
        self.start()

    def run(self) -> None:
        try:
            while not self.done:
                with self.paused:
                    content = export_bytes(self.folder / "cache.lance", self.scratch)
                assert content in self.allowed, "a reader saw something between two rounds"
                self.reads += 1
        except BaseException as problem:
            self.problem = problem

    def stop(self) -> None:
        self.done = True
        self.join()
        if self.problem is not None:
            raise self.problem


def check(folder: Path, before: bytes, after: bytes) -> int:
    """Compare every committed version with what it must hold; give the current round."""
    cache = Cache.open(folder / "cache.lance")
    assert export_bytes(cache.path, folder, 1) == before
    if cache.metadata.round == 1:
        assert export_bytes(cache.path, folder) == after
    assert cache.versions() == list(range(1, cache.metadata.round + 2))
    return cache.metadata.round


if __name__ == "__main__":
    main()
