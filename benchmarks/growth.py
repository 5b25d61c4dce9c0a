"""How cost grows with the cache: dry runs from 10k to 10M rows, and refreshing 50 % and 5 % of 1M rows.

    python benchmarks/growth.py --work WORK

Makes caches of random distributions over 100 classes under WORK (about 5 GB; removed at the end), and writes
benchmarks/results/growth.md.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa

from machine import describe, load
from overhead import rankers
from sparing.cache import Cache, ModelInfo, Rows
from sparing.models import load_model
from timing import median, table

CLASSES, CHUNK = 100, 50_000
SCORE_BYTES = 4  # rows get a score when they are refreshed; before, the column takes no space
STUB = "def new(values):\n    raise AssertionError('a dry run runs no model')\n"
SPARING = """
import atexit, pathlib, re, sys
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    for name in ("VmHWM", "RssFile"):
        print(name, re.search(name + r":\\s+(\\d+)", status)[1], file=sys.stderr)
atexit.register(peak)
from sparing.cli.main import main
main()
"""
LOADING = """
import pathlib, re
import numpy as np
def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return [int(re.search(name + r":\\s+(\\d+)", status)[1]) for name in ("VmRSS", "RssFile")]
from dataclasses import replace
from sparing.cache.encodings import encoded
from sparing.cache.encodings.scoring import uncertainty
rows = encoded(np.full((1, 4), 0.25, np.float32))
before = resident()
uncertainty(replace(rows, compiled=True), "entropy")
print(*(after - at for after, at in zip(resident(), before)))
"""


def distributions(m: int, seed: int) -> np.ndarray:
    """Draw softmax outputs of a classifier that is sometimes sure."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((m, CLASSES), dtype=np.float32)
    logits *= rng.uniform(1, 6, (m, 1)).astype(np.float32)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def names(start: int, m: int) -> pa.Array:
    """Name rows as a photo library would."""
    return pa.array([f"img-{i:08d}" for i in range(start, start + m)])


def make_cache(path: Path, rows: int, encoding: str) -> Cache:
    """Make a cache of random rows."""

    def chunks() -> Iterator[tuple]:
        for start in range(0, rows, CHUNK):
            m = min(CHUNK, rows - start)
            yield names(start, m), distributions(m, start), None

    return Cache.create(path, chunks(), ModelInfo("old", "d:old"), encoding=encoding)


def sparing(*arguments: object) -> tuple[float, float, float]:
    """Run the command line in a process of its own.

    Returns:
        Wall seconds, peak resident MB, and resident MB that are mapped from files when the process ends.
    """
    started = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SPARING, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    seconds = perf_counter() - started
    peak, files = (int(re.search(rf"{name} (\d+)", done.stderr)[1]) / 1024 for name in ("VmHWM", "RssFile"))
    return seconds, peak, files


def dry_runs(work: Path, sizes: list[int], repeats: int) -> list[str]:
    """Plan a refresh of half of the rows of ever larger caches."""
    stub = work / "stub.py"
    stub.write_text(STUB)
    model = f"new={stub}:new"
    ranker = rankers()[1]
    known = replace(ranker.candidates[0], digest=load_model(model).digest)
    replace(ranker, candidates=(known,)).save(work / "ranker")
    start = [sparing("--help")[0] for _ in range(repeats)]
    loaded = subprocess.run([sys.executable, "-c", LOADING], check=True, capture_output=True, text=True)
    loading, loading_files = (int(value) / 1024 for value in loaded.stdout.split())
    rows = []
    for size in sizes:
        for encoding in ("float16", "top8-int4"):
            path = work / f"{size}-{encoding}.lance"
            make_cache(path, size, encoding)
            for scorer, extra in (("entropy", ()), ("router", ("--ranker", work / "ranker"))):
                command = (
                    "refresh",
                    path,
                    "--model",
                    model,
                    "--budget",
                    "50%",
                    *extra,
                    "--dry-run",
                    "--json",
                )
                runs = [sparing(*command) for _ in range(repeats if size <= 1_000_000 else 3)]
                seconds = median([run[0] for run in runs])
                peak, files = (max(run[at] for run in runs) for at in (1, 2))
                rows.append(
                    (f"{size:,} {encoding}, {scorer}", f"{seconds:.2f}", f"{1e6 * seconds / size:.2f}",
                     f"{peak:.0f}", f"{files:.0f}")
                )  # fmt: skip
                print(*rows[-1], flush=True)
            shutil.rmtree(path)
    return [
        "## `sparing refresh --budget 50% --dry-run`, the whole command in a process of its own",
        "",
        f"`sparing --help` takes {median(start):.3f} s (median of {repeats}). Pandas, which PyArrow imports where it "
        f"finds it, is {'' if find_spec('pandas') else 'not '}installed.",
        "",
        "What is mapped from files, libraries for the most part, is as it stands when the process ends. Loading "
        f"numba and LLVM, which caches of more than 2 million rows of {CLASSES} classes are worth, takes "
        f"{loading:.0f} MB, {loading_files:.0f} MB of it mapped.",
        "",
        *table(("rows", "seconds", "µs/row", "peak resident MB", "of it mapped from files"), rows),
        "",
    ]


def refresh(work: Path, size: int, repeats: int) -> list[str]:
    """Replace rows of a cache, as the commit of a round does."""
    rows = []
    for encoding in ("float16", "int4", "top8-int4", "top1-int4"):
        for share in (0.5, 0.05):
            path = work / "refreshed.lance"
            cache = make_cache(path, size, encoding)
            per_row = cache.row_bytes()["row"] + SCORE_BYTES
            chosen = np.random.default_rng(0).permutation(size)[: int(share * size)]
            before = scan_seconds(path, repeats)
            written: list[int] = []

            def record(count: int, written: list[int] = written) -> dict:
                written.append(count)
                return {"op": "refresh", "what": "benchmark", "report": {"refreshed": 0}}

            metadata = replace(cache.metadata.with_model(ModelInfo("new", "d:new")), round=1)
            new = list(batches(chosen))
            started = perf_counter()
            cache.refresh_rows(new, lambda metadata=metadata: metadata, record)
            seconds = perf_counter() - started
            after = scan_seconds(path, repeats)
            started = perf_counter()
            Cache.open(path).compact(keep_rounds=0)
            compacting = perf_counter() - started
            last = scan_seconds(path, repeats)
            rows.append(
                (f"{encoding}, {100 * share:.0f} %", f"{per_row:.1f}", f"{seconds:.2f}",
                 f"{written[0] / (per_row * len(chosen)):.2f}", f"{before:.2f}", f"{after:.2f}",
                 f"{compacting:.2f}", f"{last:.2f}")
            )  # fmt: skip
            print(*rows[-1], flush=True)
            shutil.rmtree(path)
    return [
        f"## Refreshing rows of {size:,}, chosen at random",
        "",
        "A refreshed byte is one of a row with its id and state, as a freshly made cache stores it, and of its "
        "new score; written are all new files of the version. Scans read and decode every row; medians of "
        f"{repeats}.",
        "",
        *table(
            ("", "bytes/row", "seconds", "written per refreshed byte", "scan before", "scan after",
             "compact", "scan after compact"),
            rows,
        ),
        "",
    ]  # fmt: skip


def batches(chosen: np.ndarray, rows: int = 8192) -> Iterator[Rows]:
    """Make new rows in batches as large as a staged chunk."""
    for start in range(0, len(chosen), rows):
        part = chosen[start : start + rows]
        m = len(part)
        full = np.ones(m, dtype=np.int64)
        ids = pa.array([f"img-{i:08d}" for i in part])
        scores = np.linspace(0, 1, m, dtype=np.float32)
        yield Rows(ids, distributions(m, start + 1), -full, full, full, scores)


def scan_seconds(path: Path, repeats: int) -> float:
    """Time reading and decoding every row."""
    times = []
    for _ in range(repeats):
        started = perf_counter()
        for rows in Cache.open(path).scan():
            _ = rows.probs
        times.append(perf_counter() - started)
    return median(times)


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", default="[10000, 100000, 1000000, 10000000]", help="a JSON list")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the cache that is refreshed")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "growth.md")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    before = load()
    body = [
        *dry_runs(arguments.work, json.loads(arguments.sizes), arguments.repeats),
        *refresh(arguments.work, arguments.rows, arguments.repeats),
    ]
    lines = [
        "# How cost grows with the cache",
        "",
        "Command: `python benchmarks/growth.py --work WORK`  ",
        f"Machine: {describe()}; {before} before, {load()} after",
        "",
        *body,
    ]
    text = "\n".join(lines)
    print(text)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
