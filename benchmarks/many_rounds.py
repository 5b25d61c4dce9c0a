"""What many small rounds and wide rows cost: size of the record, time of reads, peak memory.

    python benchmarks/many_rounds.py --work WORK

Runs every part in a process of its own and writes benchmarks/results/many_rounds.md. `--before FILE` takes the
numbers of another checkout, as `--json FILE` wrote them, as a column beside them.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from machine import describe, load
from sparing.cache import Cache, import_outputs
from sparing.cache.exporting import export
from sparing.data.tables import list_column, write_outputs
from sparing.models.replay import load_replay
from sparing.refresh import RefreshOptions, refresh
from sparing.refresh.scoring.ranker import train_ranker
from timing import table


def outputs(rows: int, classes: int, seed: int) -> np.ndarray:
    """Draw distributions."""
    logits = np.random.default_rng(seed).standard_normal((rows, classes), dtype=np.float32) * 3
    values = np.exp(logits)
    return values / values.sum(axis=1, keepdims=True)


def record_bytes(path: Path) -> int:
    """Add up what is neither rows nor what marks rows as deleted."""
    return sum(
        f.stat().st_size for f in path.rglob("*") if f.is_file() and not {"data", "_deletions"} & set(f.parts)
    )


def rounds(path: Path, *, rows: int, count: int, size: int, learned: bool) -> dict[str, float]:
    """Refresh `size` rows of `rows` so many times."""
    classes = 10
    ids = [f"s{i:06d}" for i in range(rows)]
    old, new = outputs(rows, classes, 0), outputs(rows, classes, 1)
    cache = import_outputs(path, (ids, old), "old")
    started = perf_counter()
    export(cache, path.with_suffix(".parquet"))
    first = perf_counter() - started
    table_ = path.with_suffix(".new.parquet")
    write_outputs(table_, ids, new)
    model = load_replay(table_, name="new", cost=1.0)
    times = []
    for at in range(count):
        ranker = None
        if learned:
            ranker = train_ranker(old[:500], [new[:500]], ["new"], [model.digest], epochs=1, seed=at)
        options = RefreshOptions(
            budget=f"{size}rows", ranker=ranker, scorer="router" if learned else "entropy", seed=at
        )
        started = perf_counter()
        refresh(path, [model], options)
        times.append(perf_counter() - started)
    sizes = {"record MB": record_bytes(path) / 1e6}
    sizes["all MB"] = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6
    started = perf_counter()
    export(Cache.open(path), path.with_suffix(".parquet"))
    last = perf_counter() - started
    return {
        **sizes,
        "first rounds s": float(np.median(times[:5])),
        "last rounds s": float(np.median(times[-5:])),
        "export before s": first,
        "export after s": last,
        "fragments": len(Cache.open(path)._view.dataset.get_fragments()),
    }


def wide(path: Path, what: str) -> dict[str, float]:
    """Import, read or export 16,000 rows of 21,841 classes."""
    rows, classes = 16_000, 21_841
    table_ = path.with_suffix(".parquet")
    cache = path.with_suffix(".lance")
    if what == "make":
        names = pa.array([f"s{i:06d}" for i in range(rows)])
        with pq.ParquetWriter(
            table_, pa.schema([("id", pa.string()), ("probs", pa.list_(pa.float32()))])
        ) as out:
            for start in range(0, rows, 500):
                part = pa.table(
                    {"id": names[start : start + 500], "probs": list_column(outputs(500, classes, start))}
                )
                out.write_table(part)
        return {}
    started = perf_counter()
    if what == "import":
        import_outputs(cache, table_, "old", encoding="float16")
    if what == "scan":
        for rows_ in Cache.open(cache).scan():
            _ = rows_.probs
    if what == "export":
        export(Cache.open(cache), path.with_suffix(".out.parquet"))
    seconds = perf_counter() - started
    return {
        f"{what} s": seconds,
        f"{what} peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


PARTS = {
    "200 rounds of 25 rows of 5,000": lambda w: rounds(
        w / "a.lance", rows=5000, count=200, size=25, learned=False
    ),
    "30 rounds of 25 rows of 5,000, a ranker each": lambda w: rounds(
        w / "b.lance", rows=5000, count=30, size=25, learned=True
    ),
    "30 rounds of 100 rows of 20,000": lambda w: rounds(
        w / "c.lance", rows=20_000, count=30, size=100, learned=False
    ),
    "make": lambda w: wide(w / "w", "make"),
    "16,000 rows of 21,841 classes: import": lambda w: wide(w / "w", "import"),
    "16,000 rows of 21,841 classes: scan": lambda w: wide(w / "w", "scan"),
    "16,000 rows of 21,841 classes: export": lambda w: wide(w / "w", "export"),
}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", help="run one part and print its numbers")
    parser.add_argument("--only", default="", help="only parts whose name contains this")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--before", type=Path, help="numbers of another checkout")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "many_rounds.md")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.work)))
        return
    before_load, found = load(), {}
    for name in PARTS:
        if arguments.only not in name:
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--work", arguments.work, "--part", name],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            print(name, done.stderr[-2000:], file=sys.stderr)
            found[name] = {"failed with status": done.returncode}
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1))
    shutil.rmtree(arguments.work)
    earlier = json.loads(arguments.before.read_text()) if arguments.before else {}
    lines = [
        "# Many small rounds, and wide rows",
        "",
        "Command: `python benchmarks/many_rounds.py --work WORK --before BEFORE`, where BEFORE is what the same "
        "script wrote with `--json` on an earlier commit  ",
        f"Machine: {describe()}; {before_load} before, {load()} after",
        "",
        *table(
            ("part", "what", "before", "now"),
            [
                (name, what, _shown(earlier.get(name, {}).get(what)), _shown(value))
                for name, values in found.items()
                for what, value in values.items()
            ],
        ),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    arguments.out.write_text(text)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
