"""A production update with other classes: the forwards that a consistency takes, all counted.

    python benchmarks/magika.py --data DATA --work WORK [--jobs 2] [--draws 5] > results/magika.md

DATA holds the folder magika: the outputs of two releases of a file type detector, with 113 and 214 classes, on
29,586 files, and the extension and size of each. The commands are

    sparing cache import c.lance --from v1.parquet --model v1 --classes classes_v1.txt
    sparing refresh c.lance --model new=v3_3.parquet --classes new=classes_v3_3.txt --rename unknown=randombytes \
        --features files.parquet --impute --budget B

with and without `--features` and `--impute`. What budget a consistency takes is read off one run of 100 %: a
refresh plans its slices by what it has run, not by its budget (but for the size of the random probe, 2 % of the
budget between 30 and 300 rows, 300 here), so that the rows of a smaller budget are the first ones of a larger.
Before each slice the planner says what every row would answer if it were not run; the share of forwards is that of
the first row after which the cache, as it would be committed then, agrees with the new model.
WORK keeps finished runs between calls.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from machine import describe, load
from sparing.cache import Cache, import_outputs
from sparing.models import load_model
from sparing.refresh import RefreshOptions, refresh
from sparing.refresh import job as jobs
from sparing.refresh.learning import LearnWhileSpending
from sparing.refresh.slices import SlicePlan, Slices

TARGETS = (0.9, 0.95, 0.99)
CASES = ((True, False), (False, False), (True, True), (False, True))
"""With columns or not, imputing or not."""
RENAME = {"unknown": "randombytes"}


class StoppedError(Exception):
    """Every target is reached."""


class Watched(LearnWhileSpending):
    """Plans as usual, and notes what each slice would bring."""

    wanted: np.ndarray
    ids: dict[str, int]
    impute: bool
    needed: dict[float, float]
    seconds: list[float]
    imputed: int

    def next(self, slices: Slices) -> SlicePlan | None:
        started = perf_counter()
        plan = super().next(slices)
        self.seconds.append(perf_counter() - started)
        if plan is None:
            return None
        pool = self._begun()
        at = np.array([self.ids[name] for name in pool.ids.to_pylist()])
        wrong = self._answers() != self.wanted[at]
        wrong[~self._free] = False
        n, run = len(wrong), int((~self._free).sum())
        order = plan.order["position"].to_numpy()
        repaired = np.concatenate([[0], np.cumsum(wrong[order])])
        curve = 1 - (wrong.sum() - repaired) / n
        for target in TARGETS:
            if target not in self.needed and (curve >= target).any():
                self.needed[target] = 100 * (run + int(np.argmax(curve >= target))) / n
        if len(self.needed) == len(TARGETS):
            raise StoppedError
        return plan


def play(work: tuple[Path, bool, bool, int]) -> dict[str, Any]:
    """Run one draw up to 99 %."""
    data, columns, impute, seed = work
    names = [(data / f"classes_{name}.txt").read_text().splitlines() for name in ("v1", "v3_3")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.lance"
        import_outputs(path, data / "v1.parquet", model="v1", classes=names[0])
        model = replace(load_model(f"new={data / 'v3_3.parquet'}"), classes=tuple(names[1]))
        table = pq.read_table(data / "v3_3.parquet")
        union = [RENAME.get(name, name) for name in names[0]]
        union += [name for name in names[1] if name not in union]
        place = np.array([union.index(name) for name in names[1]])
        probs = np.stack(table["probs"].to_numpy(zero_copy_only=False))
        watched: list[Watched] = []

        def planner(round_: Any, samples: Any) -> Watched:
            made = Watched(round_, samples)
            made.wanted = place[probs.argmax(axis=1)]
            made.ids = {name: at for at, name in enumerate(table["id"].to_pylist())}
            made.needed, made.seconds = {}, []
            watched.append(made)
            return made

        jobs.planner_for = planner
        options = RefreshOptions(
            budget="100%",
            seed=seed,
            impute=impute,
            rename=RENAME,
            features=data / "files.parquet" if columns else None,
        )
        started = perf_counter()
        with contextlib.suppress(StoppedError):
            refresh(path, [model], options)
        seen = watched[0]
        if Cache.open(path).metadata.classes != tuple(union):
            raise AssertionError("the classes are not in the order that this script presumes")
        return {
            "columns": columns,
            "impute": impute,
            "seed": seed,
            "needed": [seen.needed.get(target) for target in TARGETS],
            "slices": len(seen.seconds),
            "slowest": max(seen.seconds),
            "seconds": perf_counter() - started,
        }


def table_of(found: list[dict[str, Any]]) -> str:
    """Write the table of finished runs."""
    lines = [
        "| columns | imputed | draws | "
        + " | ".join(f"{target:.0%}" for target in TARGETS)
        + " | learning, s |",
        "|" + "---|" * (len(TARGETS) + 4),
    ]
    for columns, impute in CASES:
        mine = [run for run in found if (run["columns"], run["impute"]) == (columns, impute)]
        if not mine:
            continue
        needed = np.array([run["needed"] for run in mine], dtype=float)
        cells = [f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})" for values in needed.T]
        said = ["yes" if columns else "no", "yes" if impute else "no", str(len(mine))]
        took = f"{np.mean([run['seconds'] for run in mine]):.0f}"
        lines.append("| " + " | ".join([*said, *cells, took]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="run nothing; write the table of what is there")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    kept = given.work / "magika.jsonl"
    found = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(run["columns"], run["impute"], run["seed"]) for run in found}
    work = [
        (given.data / "magika", columns, impute, seed)
        for seed in range(given.draws)
        for columns, impute in ((True, True), (False, True), (True, False), (False, False))
        if (columns, impute, seed) not in done
    ]
    if not given.table:
        with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool, kept.open("a") as file:
            for run in pool.map(play, work):
                found.append(run)
                file.write(json.dumps(run) + "\n")
                file.flush()
                print(run, file=sys.stderr, flush=True)
    print("# Forwards that a consistency takes on a production update\n")
    print(f"`python benchmarks/magika.py --data DATA --work WORK --jobs {given.jobs}`\n")
    print(f"{describe()}; {load()}.")
    print(
        "Share of the forwards of a full re-run in percent, every forward counted: mean (and range) over draws."
    )
    print("Both releases agree on 57 % of the files. Seconds are those of learning, up to 99 %.\n")
    print(table_of(found))


if __name__ == "__main__":
    main()
