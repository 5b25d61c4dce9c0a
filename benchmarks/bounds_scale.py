"""A thousand models and a million samples: seconds and memory of every step of `sparing bounds`.

python benchmarks/bounds_scale.py --out benchmarks/results/bounds_scale.md
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from machine import describe, load
from sparing.bounds import (
    analyse,
    best_small_sets,
    exact_oracle,
    oracle_intervals,
    read_outcomes,
    select_greedy,
    select_optimal,
    states_of,
)

BLOCK = 50_000


def blocks(samples: int, models: int, seed: int = 0) -> Iterator[pa.Table]:
    """Outcomes whose models mostly agree on what is hard, block by block."""
    rng = np.random.default_rng(seed)
    skill = np.linspace(0.2, 0.95, models)
    for start in range(0, samples, BLOCK):
        rows = min(BLOCK, samples - start)
        difficulty = rng.random((rows, 1), dtype=np.float32)
        correct = 0.7 * difficulty + 0.3 * rng.random((rows, models), dtype=np.float32) < skill
        columns = {f"m{j}": correct[:, j] for j in range(models)}
        yield pa.table({"id": np.arange(start, start + rows), **columns})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="file to write instead of standard output")
    arguments = parser.parse_args()
    m, n = arguments.samples, arguments.models
    lines = [
        "# Bounds at scale",
        "",
        "`python benchmarks/bounds_scale.py --out benchmarks/results/bounds_scale.md`",
        "",
        f"On {describe()}, {load()} at the start; {n} models, {m:,} samples, one run of each step. Peak memory is that of the whole "
        "process so far; the outcomes alone take "
        f"{m * n / 2**20:,.0f} MiB.",
        "",
        "| step | seconds | peak memory, MiB |",
        "|---|---|---|",
    ]

    def step(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lines.append(f"| {name} | {seconds:.2f} | {peak:,.0f} |")
        return result

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes.parquet"
        tables = blocks(m, n)
        first = next(tables)
        with pq.ParquetWriter(path, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
        size = path.stat().st_size / 2**20
        known = step(f"read {size:,.0f} MiB of Parquet", lambda: read_outcomes([path]))
    costs = 1 + 0.01 * np.arange(n) ** 2
    oracle = step("exact oracle and frontier", lambda: exact_oracle(known.correct, costs))
    step("1000 bootstrap resamplings", lambda: oracle_intervals(oracle, known.correct, costs))
    step("pairs and triples (by extension)", lambda: best_small_sets(known.correct))
    states = step("states", lambda: states_of(known, costs))
    step("greedy selection, all sizes", lambda: select_greedy(states.costs, np.sort(states.accuracies), n))
    step("best sets of up to 50", lambda: select_optimal(states.costs, np.sort(states.accuracies), 50))
    step("the whole analysis", lambda: analyse(states, outcomes=known, costs=costs, select=7))
    few = known.correct[:, :20].copy()
    varying = (costs[:20] * np.random.default_rng(1).exponential(size=few.shape)).astype(np.float64)
    priced = step("20 models, costs per sample: exact oracle", lambda: exact_oracle(few, varying))
    step(
        "20 models, costs per sample: 100 resamplings",
        lambda: oracle_intervals(priced, few, varying, replicates=100),
    )
    text = "\n".join([*lines, ""])
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
