"""What `sparing refresh --ranker --dry-run` predicts, against what the refresh then brings.

    python benchmarks/predictions.py --data DATA --work WORK

On every pair of `as_typed.py`: `sparing fit` with its 500 rows, `refresh --dry-run`, then the refresh. The
prediction rests on the fifth of those rows that fit holds out, and comes with a standard error; what happened is
agreement with a full re-run, over all rows.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from as_typed import BUDGETS, FIT_ROWS, Pair, pairs
from machine import describe, load
from sparing.cache import Cache, import_outputs
from sparing.data.tables import read_outputs
from sparing.models import load_model
from sparing.refresh import RefreshOptions, fit, preview, refresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    print("# Dry runs: what was predicted, and what happened\n")
    print(f"`python benchmarks/predictions.py --data DATA --work WORK --draws {given.draws}`\n")
    print(f"{describe()}; {load()}. Consistency in percent over {given.draws} draws; error is the mean standard "
          "error that the prediction states.\n")  # fmt: skip
    print("| pair | budget | happened | predicted | off by (mean of absolute) | stated error | "
          "within 2 errors |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    every: list[tuple[float, float]] = []
    for pair in pairs(given.data, given.work):
        if pair.features is not None:  # a ranker reads no columns
            continue
        found = {budget: [play(pair, budget, seed) for seed in range(given.draws)] for budget in BUDGETS}
        for budget, runs in found.items():
            happened, predicted, error = (100 * np.array(column) for column in zip(*runs, strict=True))
            every += [(p - h, e) for h, p, e in zip(happened, predicted, error, strict=True)]
            off = np.abs(predicted - happened)
            print(f"| {pair.name} | {budget:.0%} | {happened.mean():.2f} | {predicted.mean():.2f} | "
                  f"{off.mean():.2f} | {error.mean():.2f} | {(off <= 2 * error).sum()} of {len(runs)} |",
                  flush=True)  # fmt: skip
    off, error = np.array(every).T
    print(f"\n- Over {len(off)} dry runs the prediction is off by {np.abs(off).mean():.2f} points in the mean of "
          f"absolute values, {off.mean():+.2f} on average; {(np.abs(off) <= 2 * error).mean():.1%} are within "
          f"two of the standard errors that they state.")  # fmt: skip


def play(pair: Pair, budget: float, seed: int) -> tuple[float, float, float]:
    """Return the consistency that happened, the one that was predicted, and its standard error."""
    wanted = read_outputs(pair.new)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "c.lance"
        import_outputs(cache, pair.old, model="old")
        model = load_model(f"new={pair.new}")
        ranker = fit(cache, [model], rows=FIT_ROWS, seed=seed)
        options = RefreshOptions(budget=str(budget), ranker=ranker, seed=seed)
        seen = preview(cache, [model], options).prediction
        refresh(cache, [model], options)
        rows = Cache.open(cache).get(wanted.ids)
        new = dict(zip(wanted.ids.to_pylist(), wanted.probs.argmax(axis=1).tolist(), strict=True))
        agreed = rows.probs.argmax(axis=1) == np.array([new[name] for name in rows.ids.to_pylist()])
        shutil.rmtree(cache)
    assert seen is not None
    return float(agreed.mean()), seen.consistency, seen.error


if __name__ == "__main__":
    sys.exit(main())
