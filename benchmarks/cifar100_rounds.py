"""Four model updates of a CIFAR-100 cache, every method side by side (PURE, Tables 2, 4 and 12).

    python benchmarks/cifar100_rounds.py --data DATA/cifar100 --work WORK

M0 `resnet20_distilled`, M1 = M2 with weight noise 0.15, M2 `resnet44_distilled`, M3 = M4 with weight noise
0.05, M4 `resnet56`; 50 % per round over 10,000 rows; the noise is drawn anew for each of five seeds, which
also halve the rows for cross-fitting. WORK keeps exported models and outputs between runs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cifar import noisy, outputs
from machine import describe
from sparing.evaluate import Replay, simulate

PAPER = ("random", "entropy", "cema", "mlink", "pure", "pure-no-correction", "only-omission", "only-misclass",
         "no-voting", "full")  # fmt: skip
OURS = ("change", "pooled", "pooled-unlabelled", "pooled-entropy", "pooled-pure")
UNCORRECTED = ("random", "entropy", "cema", "mlink", "pure-no-correction", "change", "pooled",
               "pooled-unlabelled")  # fmt: skip
TABLE_4 = ("50%", "60%", "68%", "71.7%")
"""The paper's forwards: 50 % and the reuse-aware extra 10.0, 18.0 and 21.7 %."""

LABELS = (0, 100, 200, 500, 2000)


def tables(seed: int, data: Path, work: Path) -> list[Path]:
    names = [
        "resnet20_distilled",
        noisy("resnet44_distilled", 0.15, seed, data, work),
        "resnet44_distilled",
        noisy("resnet56", 0.05, seed, data, work),
        "resnet56",
    ]
    for name in names:
        outputs(name, data, work)
    return [work / f"{name}.parquet" for name in names]


Gathered = dict[str, list[Replay]]


def gather(seeds: int, data: Path, work: Path, **options: object) -> tuple[Gathered, Gathered]:
    above: Gathered = {}
    within: Gathered = {}
    for seed in range(seeds):
        result = simulate(tables(seed, data, work), seeds=1, first_seed=seed, **options)
        for name, replay in result.methods.items():
            above.setdefault(name, []).append(replay)
        for name, replay in result.within_budget.items():
            within.setdefault(name, []).append(replay)
        print(f"seed {seed} done", flush=True)
    return above, within


def report(title: str, gathered: Gathered) -> list[str]:
    lines = [f"## {title}", "", "| method | round 0 | round 1 | round 2 | round 3 | round 4 | average | "
             "consistency, round 4 | forwards, all rounds |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, runs in gathered.items():
        values = 100 * np.concatenate([run.accuracy for run in runs])
        same = 100 * np.concatenate([run.consistency for run in runs])[:, -1]
        cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True)]
        forwards = np.concatenate([run.forwards for run in runs]).sum(axis=1).mean()
        lines.append(
            f"| {name} | {' | '.join(cells)} | {values.mean():.2f} | {same.mean():.2f} ± {same.std():.2f} | "
            f"{forwards:,.0f} |"
        )
    return [*lines, ""]


def workload(gathered: Gathered, names: Sequence[str]) -> list[str]:
    lines = ["## Correction's real workload, as the paper counts", "",
             "| method | round | screened | screening forwards | corrected | voting forwards | extra |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in names:
        runs = gathered[name]
        for t in range(1, 4):
            cells = [
                f"{np.concatenate([getattr(run, key) for run in runs])[:, t].mean():,.0f}"
                for key in ("screened", "screening", "corrected", "voting")
            ]
            extra = sum(
                np.concatenate([getattr(r, k) for r in runs])[:, t].mean() for k in ("screening", "voting")
            )
            lines.append(f"| {name} | {t + 1} | {' | '.join(cells)} | {extra:,.0f} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME.pth and test.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models and outputs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cifar100_rounds.md")
    arguments = parser.parse_args()
    given = (arguments.seeds, arguments.data, arguments.work)
    above, within = gather(*given, methods=",".join(PAPER + OURS))
    equal, _ = gather(*given, methods=",".join(UNCORRECTED), budget=TABLE_4)
    lines = [
        "# CIFAR-100 over four model updates", "",
        f"`python benchmarks/cifar100_rounds.py --data DATA/cifar100 --work WORK` with {arguments.seeds} seeds, on "
        f"{describe()}. Accuracy in % over all 10,000 rows, mean ± standard deviation over seeds; learned parts "
        "are cross-fitted on the other half's 5,000 rows, whose outputs count as known from elsewhere. "
        "Pooling reads 500 labels per half (`pooled-unlabelled`: none).", "",
    ]  # fmt: skip
    lines += report("As the paper counts: 50 % per round, correction on top", above)
    lines += workload(above, ("pure", "only-omission", "only-misclass", "no-voting", "pooled-pure"))
    lines += report("At equal forwards: correction paid from the 50 %", within)
    lines += report("At the paper's total: everybody gets 50, 60, 68 and 71.7 %", equal)
    lines += ["## How many labels pooling needs (50 % per round)", "",
              "| labels per half | round 1 | round 2 | round 3 | round 4 |", "|---|---|---|---|---|"]  # fmt: skip
    for labels in LABELS:
        runs = gather(*given, methods="pooled", labelled_rows=labels)[0]["pooled"]
        values = 100 * np.concatenate([run.accuracy for run in runs])[:, 1:]
        cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True)]
        lines.append(f"| {labels} | {' | '.join(cells)} |")
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
