"""What small caches keep of what routing needs: PURE's Tables 10 and 11 on the CIFAR-100 models.

    python benchmarks/cache_encodings.py --data DATA/cifar100 --work WORK

For every encoding: bytes per row, and accuracy and consistency when half of the rows are refreshed, ranked by
entropy and by a fitted ranker. Writes benchmarks/results/cache_encodings.md.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from cifar import outputs
from machine import describe
from sparing.budget import KEEP, Budget, plan
from sparing.cache import Cache, ModelInfo
from sparing.cache.encodings import parse_encoding
from sparing.numerics.metrics import accuracy, consistency
from sparing.numerics.selection import tie_keys
from sparing.refresh import train_ranker
from sparing.refresh.scoring import ScoringRows
from sparing.refresh.scoring.unlearned import Entropy
from timing import table

PAIRS = (("resnet20_distilled", "resnet56"), ("resnet20", "resnet56"), ("resnet44_distilled", "resnet56"))
OURS = ("float32", "float16", "int8", "int4", "top8-int4", "top4-int4", "top1-int4")
CAPTION = ("int8-uniform", "int4-uniform", "top8-int4-uniform", "top4-int4-uniform", "top1-int4-uniform")
SIZES = (*OURS, "top8-int4-uint16", "top4-int4-uint16", "top1-int4-uint16")
SEEDS, FITTED, ROWS_ON_DISK = 5, 5000, 1_000_000
LIMITS = {"float16": 0.2, "int8": 0.2, "int4": 0.2, "top8-int4": 0.2, "top4-int4": 0.4, "top1-int4": 0.6}


def on_disk(name: str, probs: np.ndarray) -> dict[str, float]:
    """Measure what a row takes in a cache of 1M rows."""
    chunks = (
        (pa.array(np.arange(at, at + len(probs))), probs, None) for at in range(0, ROWS_ON_DISK, len(probs))
    )
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache.create(Path(folder) / "c.lance", chunks, ModelInfo("m", "d"), encoding=name)
        return cache.row_bytes()


def half(benefits: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Choose the half of the rows to refresh."""
    return plan(benefits, [1.0], ties, Budget.parse("50%")) != KEEP


def outcome(kept: np.ndarray, new: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """Give accuracy and consistency, in %, of a cache whose chosen rows are refreshed."""
    stored = np.where(chosen, new, kept)
    return 100 * accuracy(stored, labels), 100 * consistency(stored, new)


def evaluate(old_name: str, new_name: str, data: Path, work: Path) -> dict[tuple[str, str], list]:
    """Refresh half of the rows of one pair from every encoding, in five seeds.

    Returns:
        (accuracy, consistency) of each seed, by encoding and scorer.
    """
    old, new = (outputs(name, data, work) for name in (old_name, new_name))
    after, labels = new.probs.argmax(axis=1), old.labels
    found: dict[tuple[str, str], list] = defaultdict(list)
    for name in (*OURS, *CAPTION):
        rows = parse_encoding(name, old.probs.shape[1]).encode(old.probs)
        kept, read = rows.classes(), rows.decode()
        for seed in range(SEEDS):
            ties = tie_keys(old.ids, seed)
            scores = Entropy().benefits(ScoringRows(outputs=rows, ties=ties))
            found[name, "entropy"].append(outcome(kept, after, labels, half(scores, ties)))
            # The ranker is fitted and judged on what the cache holds, on rows of its own.
            order = np.random.default_rng(seed).permutation(len(kept))
            fit, judge = np.sort(order[:FITTED]), np.sort(order[FITTED:])
            ranker = train_ranker(read[fit], [new.probs[fit]], [new_name], ["d"], seed=seed)
            chosen = half(ranker.benefits(rows[judge]), ties[judge])
            found[name, "router"].append(outcome(kept[judge], after[judge], labels[judge], chosen))
        print(old_name, name, flush=True)
    return found


def mean(values: list[tuple[float, float]], column: int) -> float:
    """Average one of the two figures over the seeds."""
    return statistics.mean(value[column] for value in values)


def described(values: list[tuple[float, float]], column: int) -> str:
    """Write the mean and the standard deviation."""
    return f"{mean(values, column):.2f} ± {statistics.stdev(value[column] for value in values):.2f}"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with test.parquet and NAME.pth")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models and outputs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cache_encodings.md")
    arguments = parser.parse_args()
    probs = outputs(PAIRS[0][0], arguments.data, arguments.work).probs
    lines = [
        "# Encodings: size, accuracy and consistency",
        "",
        "Command: `python benchmarks/cache_encodings.py --data DATA/cifar100 --work WORK`  ",
        f"Machine: {describe()}",
        "",
        f"## Bytes per row, 100 classes (Table 10); on disk: {ROWS_ON_DISK:,} rows with integer ids",
        "",
    ]
    sizes = []
    for name in SIZES:
        size = on_disk(name, probs)
        sizes.append(
            (name, size["nominal"], f"{size['probs']:.3f}", f"{size['probs'] / size['nominal']:.3f}",
             f"{size['row']:.3f}")
        )  # fmt: skip
    lines += table(("", "nominal", "on disk", "of nominal", "with id and state"), sizes)
    for old_name, new_name in PAIRS:
        found = evaluate(old_name, new_name, arguments.data, arguments.work)
        lines += ["", f"## `{old_name}` → `{new_name}`, half of the rows refreshed, in % (Table 11)", ""]
        rows = []
        for name in (*OURS, *CAPTION):
            cells = []
            for scorer in ("entropy", "router"):
                values = found[name, scorer]
                loss = mean(found["float32", scorer], 1) - mean(values, 1)
                cells += [described(values, 0), described(values, 1), f"{loss:+.2f}"]
            rows.append((name, *cells, LIMITS.get(name, "")))
        names = ("accuracy", "consistency", "lost")
        header = ("", *(f"{s}: {n}" for s in ("entropy", "router") for n in names), "may lose")
        lines += table(header, rows)
    lines += [
        "",
        f"Mean ± standard deviation over {SEEDS} seeds. Entropy ranks all 10,000 rows; the seed decides ties. "
        f"The ranker reads the sorted vector; it is fitted on {FITTED:,} rows as the cache holds them and "
        "judged on the others. Lost: points of consistency less than from float32. The forms that end in "
        "-uniform are those of the caption of Table 10: an even grid, nothing kept of what is not listed.",
        "",
    ]
    text = "\n".join(lines)
    print(text)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
