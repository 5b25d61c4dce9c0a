"""One update of a CIFAR-100 cache, every scorer side by side (PURE, Tables 1 and 14).

    python benchmarks/cifar100_oneshot.py --data DATA/cifar100 --work WORK

Over random splits of the 10,000 test rows, from `resnet20` and from `resnet20_distilled` to `resnet56`: all
scorers at 20, 50 and 80 %; how many rows learned scorers need, and the seconds that they take; and what else a
cache could hold: an embedding, and the outcomes of neighbours that are refreshed already. WORK keeps exported
models, outputs and embeddings between runs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from cifar import embeddings, outputs
from machine import describe
from sparing.evaluate import Comparison, evaluate
from sparing.numerics.distributions import entropy
from sparing.numerics.metrics import headroom
from sparing.refresh import train_ranker
from sparing.refresh.scoring import Answers, Pairs, ScoringRows
from sparing.refresh.scoring.change import Change

PAIRS = (("resnet20", "resnet56"), ("resnet20_distilled", "resnet56"))
SIZES = (500, 1000, 2000, 3000, 5000, 7000)
RATES = (0.2, 0.5)
NEIGHBOURS = 30

Matrix = np.ndarray


def table_1(result: Comparison) -> list[str]:
    lines = ["| scorer | rate | accuracy | consistency | headroom | headroom (accuracy) | forwards |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for rate in ("0.2", "0.5", "0.8"):
        for name, figures in result.scorers.items():
            f = figures[rate]
            lines.append(
                f"| {name} | {rate} | {100 * f['accuracy']:.2f} ± {100 * f['accuracy_std']:.2f} | "
                f"{100 * f['consistency']:.2f} ± {100 * f['consistency_std']:.2f} | {f['headroom']:.3f} | "
                f"{f['headroom_accuracy']:.3f} | {f['forwards']:,} |"
            )
    return [*lines, "", f"Advice: {result.advice}", *[f"Note: {note}" for note in result.notes], ""]


def sizes(old: Path, new: Path, seeds: int) -> list[str]:
    lines = ["| rows | entropy 20 / 50 % | pure 20 / 50 % | pure-plain 20 / 50 % | change 20 / 50 % | "
             "seconds to fit: pure | change |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    whole_old, whole_new = outputs_of(old), outputs_of(new)
    for rows in SIZES:
        result = evaluate(
            old, {"new": new}, rates=["20%", "50%"], scorers="entropy,pure,pure-plain,change", seeds=seeds,
            train_rows=rows,
        )  # fmt: skip
        cells = [
            " / ".join(f"{by_rate[rate]['headroom']:.3f}" for rate in ("0.2", "0.5"))
            for by_rate in result.scorers.values()
        ]
        started = perf_counter()
        train_ranker(whole_old[:rows], [whole_new[:rows]], ["new"], [None])
        ranker = perf_counter() - started
        given = ScoringRows(outputs=whole_old[:rows], ties=np.zeros(rows, np.uint64))
        started = perf_counter()
        Change.fit(Pairs(given, Answers([whole_new[:rows]], np.full(rows, -1))), 0)
        cells += [f"{ranker:.2f}", f"{perf_counter() - started:.2f}"]
        lines.append(f"| {rows:,} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def outputs_of(path: Path) -> Matrix:
    from sparing.data.tables import read_outputs

    return read_outputs(path).probs


def base_features(probs: Matrix, train: Matrix, changed: Matrix) -> Matrix:
    """What the change predictor reads: top ten log-probabilities, entropy, the class's own change rate."""
    top = -np.sort(-probs, axis=1)[:, :10]
    cached = probs.argmax(axis=1)
    hits = np.bincount(cached[train], weights=changed[train], minlength=probs.shape[1])
    count = np.bincount(cached[train], minlength=probs.shape[1])
    mean = changed[train].mean()
    own = np.isin(np.arange(len(probs)), train)
    rate = (hits[cached] - own * changed + 10 * mean) / (count[cached] - own + 10)
    return np.column_stack([np.log(np.maximum(top, 1e-6)), entropy(probs), np.log(rate / (1 - rate))])


def neighbour_rate(space: Matrix, train: Matrix, changed: Matrix) -> Matrix:
    """Share of the nearest refreshed rows that changed, as log-odds; a row is no neighbour of its own."""
    found = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(space[train])
    near = found.kneighbors(space, return_distance=False)
    itself = train[near] == np.arange(len(space))[:, None]
    weights = np.where(itself, 0.0, 1.0)
    rate = ((changed[train][near] * weights).sum(axis=1) + 1) / (weights.sum(axis=1) + 2)
    return np.log(rate / (1 - rate))[:, None]


def signals(old: Matrix, new: Matrix, embedded: Matrix, seeds: int) -> list[str]:
    """Judge what an embedding and refreshed neighbours add, by headroom of consistency."""
    changed = (old.argmax(axis=1) != new.argmax(axis=1)).astype(float)
    unit = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    scaled = (embedded - embedded.mean(axis=0)) / embedded.std(axis=0)
    scores: dict[str, Callable[[Matrix], Matrix]] = {
        "entropy": lambda _train: entropy(old),
        "change (distribution only)": lambda t: learned(t, base_features(old, t, changed)),
        "+ embedding": lambda t: learned(t, np.hstack([base_features(old, t, changed), scaled])),
        "+ neighbours by distribution": lambda t: learned(
            t, np.hstack([base_features(old, t, changed), neighbour_rate(np.sqrt(old), t, changed)])
        ),
        "+ neighbours by embedding": lambda t: learned(
            t, np.hstack([base_features(old, t, changed), neighbour_rate(unit, t, changed)])
        ),
        "+ embedding and its neighbours": lambda t: learned(
            t, np.hstack([base_features(old, t, changed), scaled, neighbour_rate(unit, t, changed)])
        ),
    }

    def learned(train: Matrix, features: Matrix) -> Matrix:
        spread = features.std(axis=0)
        model = LogisticRegression(C=0.1, max_iter=2000).fit(features[train] / spread, changed[train])
        return model.decision_function(features / spread)

    found: dict[str, list[list[float]]] = {name: [] for name in scores}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(old))
        train, test = np.sort(order[:5000]), order[5000:]
        for name, score in scores.items():
            values, truth = score(train)[test], changed[test]
            found[name].append([])
            for rate in RATES:
                count = int(rate * len(test))
                left = truth[np.argsort(-values, kind="stable")[count:]].sum()
                kept = 1 - left / len(test)
                chance = 1 - truth.mean() * (1 - rate)
                best = 1 - max(truth.sum() - count, 0) / len(test)
                found[name][-1].append(headroom(kept, chance, best))
    lines = [
        "| features | headroom at 20 % | at 50 % | against entropy at 20 % | at 50 % |",
        "|---|---|---|---|---|",
    ]
    base = np.array(found["entropy"])
    for name, runs in found.items():
        values = np.array(runs)
        gain = values - base
        lines.append(
            f"| {name} | {values[:, 0].mean():.3f} | {values[:, 1].mean():.3f} | "
            f"{gain[:, 0].mean():+.3f} ± {gain[:, 0].std(ddof=1):.3f} | "
            f"{gain[:, 1].mean():+.3f} ± {gain[:, 1].std(ddof=1):.3f} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME.pth and test.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models and outputs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cifar100_oneshot.md")
    arguments = parser.parse_args()
    lines = [
        "# CIFAR-100, one update, every scorer", "",
        f"`python benchmarks/cifar100_oneshot.py --data DATA/cifar100 --work WORK` with {arguments.seeds} seeds, on "
        f"{describe()}. Learned scorers fit 5,000 rows unless said otherwise; the others are judged, mean ± standard "
        "deviation over splits, in %. Headroom is (scorer - random) / (oracle - random).", "",
    ]  # fmt: skip
    for old_name, new_name in PAIRS:
        for name in (old_name, new_name, *(n for pair in PAIRS for n in pair)):
            outputs(name, arguments.data, arguments.work)
        old, new = (arguments.work / f"{name}.parquet" for name in (old_name, new_name))
        further = [arguments.work / f"{pair[0]}.parquet" for pair in PAIRS if pair[0] != old_name]
        lines += [f"## {old_name} to {new_name}", ""]
        lines += table_1(evaluate(old, {new_name: new}, seeds=arguments.seeds, others=further))
        lines += ["### Rows that learned scorers need (headroom of consistency)", ""]
        lines += sizes(old, new, arguments.seeds)
        lines += ["### What else a cache could hold", "",
                  f"`{old_name}`'s 64 penultimate features, and the outcomes of the {NEIGHBOURS} nearest of the 5,000 "
                  "rows that are refreshed already; logistic regressions; ± standard deviation over splits.", ""]  # fmt: skip
        embedded = embeddings(old_name, arguments.data, arguments.work)
        lines += signals(outputs_of(old), outputs_of(new), embedded, arguments.seeds)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
