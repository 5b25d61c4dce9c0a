"""Two and three candidates against the best of them alone, at equal spend.

    python benchmarks/candidates.py --data DATA --work WORK

Every cell is what a user types, on a cache of its own, with all forwards in the budget:

- default: `sparing refresh CACHE --model A=... --model TARGET=... --budget B`, which runs the target alone;
- best alone: `sparing fit` with 500 rows of one candidate, then `sparing refresh --ranker`, for the best of them;
- several: `sparing fit` with 500 rows in all, of every candidate, then `sparing refresh --ranker`, in which each
  row gets the candidate whose predicted entropy decrease is largest (PURE, Equation 5);
- calibrated: the same, once each candidate has a temperature that is fitted to the target's classes, on all
  rows, which is more than a user could do.

Consistency is agreement with a full re-run of the target, the last candidate, and spend a share of its cost.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from as_typed import cifar_outputs
from machine import describe, load
from sparing.cache import Cache, import_outputs
from sparing.data.tables import OutputTable, read_outputs, write_outputs
from sparing.models import load_model
from sparing.numerics.distributions import apply_temperature, fit_temperature
from sparing.refresh import RefreshOptions, fit, refresh

CASES = (
    ("cifar100", "resnet20", ("resnet20_distilled", "resnet56")),
    ("cifar100", "resnet20_distilled", ("resnet20", "resnet56")),
    ("cifar100", "resnet20_distilled", ("resnet44_distilled", "resnet56")),
    ("cifar100", "resnet20_distilled", ("resnet44_distilled", "resnet20", "resnet56")),
    ("cifar10", "vit_edge", ("vit_server", "resnet56")),
    ("cifar10", "vit_server", ("vit_nano", "resnet56")),
    ("cifar10", "vit_edge", ("vit_nano", "resnet20", "resnet56")),
)
SPENDS = ("20%", "50%", "80%")
FIT_ROWS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3)
    given = parser.parse_args()
    print("# Several candidates against the best of them alone\n")
    print(f"`python benchmarks/candidates.py --data DATA --work WORK --draws {given.draws}`\n")
    print(f"{describe()}; {load()}. Consistency in percent, mean over {given.draws} draws.\n")
    print("| cache → candidates, the last the target | spend | default | best alone | several | calibrated | "
          "rows of each, calibrated |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    gaps: dict[str, list[tuple[float, str]]] = {"the default": [], "several": [], "several, calibrated,": []}
    for folder, old, names in CASES:
        paths = {n: cifar_outputs(n, given.data / folder, given.work / folder) for n in (old, *names)}
        tempered = {**paths, **calibrated(paths, names, given.work / folder)}
        for spend in SPENDS:
            shares: dict[str, list[float]] = {}
            rows: dict[str, int] = {}
            runs = [("default", names, paths, None)]
            runs += [(f"alone {name}", (name,), paths, names[-1]) for name in names]
            runs += [("several", names, paths, names[-1]), ("calibrated", names, tempered, names[-1])]
            for seed in range(given.draws):
                for what, among, tables, target in runs:
                    share, forwards = play(tables, old, among, spend, seed, target)
                    shares.setdefault(what, []).append(share)
                    if what == "calibrated":
                        rows = forwards
            means = {what: 100 * float(np.mean(values)) for what, values in shares.items()}
            best = max((what for what in means if what.startswith("alone")), key=means.__getitem__)
            where = f"{old} → {', '.join(names)} at {spend}"
            for what, column in zip(gaps, ("default", "several", "calibrated"), strict=True):
                gaps[what].append((means[column] - means[best], where))
            counts = ", ".join(f"{name} {count:,}" for name, count in rows.items())
            print(f"| {folder} {old} → {', '.join(names)} | {spend} | {means['default']:.2f} | {means[best]:.2f} "
                  f"({best[6:]}) | {means['several']:.2f} | {means['calibrated']:.2f} | {counts} |",
                  flush=True)  # fmt: skip
    print()
    for what, found in gaps.items():
        worst, top = min(found), max(found)
        print(f"- From the best candidate alone, {what} is {np.mean([gap for gap, _ in found]):+.2f} points on "
              f"average, {worst[0]:+.2f} at worst ({worst[1]}), {top[0]:+.2f} at best ({top[1]}).")  # fmt: skip


def calibrated(paths: dict[str, Path], names: tuple[str, ...], folder: Path) -> dict[str, Path]:
    """Write the outputs of every candidate but the target with a temperature fitted to the target's classes."""
    target, found = read_outputs(paths[names[-1]]), {}
    for name in names[:-1]:
        table = read_outputs(paths[name])
        classes = in_order(target, table.ids.to_pylist()).argmax(axis=1)
        temperature = fit_temperature(table.probs, classes)
        found[name] = folder / f"{name}-calibrated-to-{names[-1]}.parquet"
        write_outputs(found[name], table.ids, apply_temperature(table.probs, temperature).astype(np.float32))
    return found


def in_order(table: OutputTable, ids: list[object]) -> np.ndarray:
    where = {name: at for at, name in enumerate(table.ids.to_pylist())}
    return table.probs[[where[name] for name in ids]]


def play(
    paths: dict[str, Path], old: str, names: tuple[str, ...], spend: str, seed: int, fitted: str | None
) -> tuple[float, dict[str, int]]:
    """Return the consistency with the target, and how many rows each candidate was run on."""
    target = fitted or names[-1]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "c.lance"
        import_outputs(cache, paths[old], model="old")
        models = [load_model(f"{name}={paths[name]}") for name in names]
        options = RefreshOptions(budget=spend, seed=seed)
        if fitted is not None:
            ranker = fit(cache, models, rows=FIT_ROWS // len(names), seed=seed)
            options = RefreshOptions(budget=spend, ranker=ranker, scorer="router", seed=seed)
        report = refresh(cache, models, options)
        assert report.share_of_forwards <= float(spend.rstrip("%")) / 100 + 1e-9, report.share_of_forwards
        rows = Cache.open(cache).get(read_outputs(paths[old]).ids)
        wanted = in_order(read_outputs(paths[target]), rows.ids.to_pylist()).argmax(axis=1)
        return float((rows.probs.argmax(axis=1) == wanted).mean()), report.account["forwards"]


if __name__ == "__main__":
    sys.exit(main())
