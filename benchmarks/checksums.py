"""What checksums cost: of a commit, and of reading all rows.

    python benchmarks/checksums.py --work WORK

A cache of 1,000,000 rows of 100 classes (float16, 200 MB): half of its rows are rewritten by a round, with the
checksums noted and without, in turn; and all rows are scanned, with all contents compared before and without.
"""

import argparse
import shutil
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa

from machine import describe, load
from sparing.cache import Cache, ModelInfo, checking, transactions
from sparing.cache.rows import Rows
from timing import table

ROWS, CLASSES, CHUNK = 1_000_000, 100, 50_000


def chunks():
    rng = np.random.default_rng(0)
    for start in range(0, ROWS, CHUNK):
        ids = pa.array([f"i{start + row:07d}" for row in range(CHUNK)])
        yield ids, rng.dirichlet(np.full(CLASSES, 0.1), CHUNK).astype(np.float32), None


def commit(path: Path, noting: bool) -> float:
    cache = Cache.open(path)
    later = replace(cache.metadata, round=cache.metadata.round + 1).with_model(ModelInfo("new", "d"))

    def half():
        for rows in cache.scan():
            part = len(rows) // 2
            yield Rows(rows.ids[:part], rows.outputs[:part], rows.labels[:part],
                       np.full(part, 1), np.full(part, later.round), np.zeros(part, np.float32))  # fmt: skip

    real = transactions.checking.note_files
    if not noting:
        transactions.checking.note_files = lambda *_: None
    started = perf_counter()
    try:
        cache.refresh_rows(half(), lambda: later, lambda _: {"op": "refresh", "digests": {}})
    finally:
        transactions.checking.note_files = real
    return perf_counter() - started


def scan(path: Path, verifying: bool) -> float:
    checking._verified.clear()
    cache = Cache.open(path)
    started = perf_counter()
    if not verifying:
        for name in checking._data_files(cache._view.dataset):
            checking._verified[path / name] = checking._state(path / name)
    count = sum(len(rows) for rows in cache.scan())
    assert count == ROWS
    return perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    start, copy = given.work / "start.lance", given.work / "copy.lance"
    given.work.mkdir(parents=True, exist_ok=True)
    if not start.exists():
        Cache.create(start, chunks(), ModelInfo("old", "d:old"))
    times: dict[str, list[float]] = {}
    for _ in range(given.repeats):
        for on in (False, True):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(start, copy)
            times.setdefault(f"commit of half the rows, {'with' if on else 'without'}", []).append(
                commit(copy, on)
            )
            times.setdefault(f"scan of all rows, {'with' if on else 'without'}", []).append(scan(start, on))
    shutil.rmtree(copy)
    rows = [
        [what, f"{statistics.median(t):.3f}", f"{min(t):.3f}", f"{max(t):.3f}"] for what, t in times.items()
    ]
    print("# What checksums cost\n")
    print(f"`python benchmarks/checksums.py --work WORK --repeats {given.repeats}`\n")
    print(
        f"{describe()}; {load()}. {ROWS:,} rows of {CLASSES} classes; seconds of {given.repeats} runs in turn.\n"
    )
    print("\n".join(table(["", "median", "least", "most"], rows)))


if __name__ == "__main__":
    sys.exit(main())
