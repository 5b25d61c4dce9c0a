"""What a promise of consistency takes, how often it is broken, and BARGAIN's rule beside it.

    python benchmarks/consistency_target.py --data DATA --work WORK [--repeats 1000] [--jobs 2]
        > results/consistency_target.md

For every pair of CIFAR-100 networks and every target, `sparing refresh --consistency` with `--scorer entropy` is
carried out by the product's own planner up to its audit. Nothing in that is random, so that the audit alone is
repeated: drawn, tested and followed by what it shows to be missing, as the planner does. The skip is the share of
rows that are not run, audit rows counted as run; "in hindsight" stops in the order by entropy exactly where the
target is met. A million rows are the 10,000 resampled, with the planner's own prediction for each.

BARGAIN (Zeighami, Shankar, Parameswaran 2025, arXiv 2509.02896) with an accuracy target is written from its paper:
thresholds every 20th of the rows, from the surest, each tested by betting (Waudby-Smith and Ramdas 2024, without
replacement) on rows drawn among those above it, ten at a time, at level alpha; the first that is not shown to meet
its target ends it. A threshold is given up as its published code does: after 50 rows, when the sample's mean less
its standard deviation is below the target ("published"), or, so that its stopping rule is not what is compared,
only when it is shown to be below, or as many rows as our audit would use were drawn ("patient").
"""

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from as_typed import CIFAR, cifar_outputs
from machine import describe
from sparing.cache import Cache, import_outputs
from sparing.data.tables import read_outputs, write_outputs
from sparing.models import load_model
from sparing.numerics.certificate import allowed_wrong, plan_audit
from sparing.refresh import RefreshOptions
from sparing.refresh.keeping import KeepPromise
from sparing.refresh.promise import FROZEN, AuditedRows
from sparing.refresh.records import PromisedRows, SliceRecord
from sparing.refresh.round import prepare_round
from sparing.refresh.running import run_order
from sparing.refresh.slices import SlicePlan, Slices, run_slices
from sparing.refresh.staging import Staging

TARGETS = ("90%", "95%", "99%")
CONFIDENCE = "95%"
ALPHA = 0.05
TIMES = 100
LARGE_REPEATS = 20
SUPG = (("onto", "99%"), ("onto", "99.5%"), ("tacred", "99.5%"))
"""Targets that the proxies of SUPG's tables do not meet by themselves."""

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frozen:
    """A promise when its audit is drawn.

    Attributes:
        rows: of the cache.
        run: rows run before.
        wrong: shape (N,), whether each of the others, in order, would be wrong.
        chances: shape (N,), what was predicted of that.
        promised: what was planned.
        draws: rows to audit.
        best: rows that the best threshold in hindsight skips.
    """

    rows: int
    run: int
    wrong: Bools
    chances: Doubles
    promised: PromisedRows
    draws: int
    best: int


class UntilAudit:
    """Plans as the product does, but stops before the audit is run."""

    def __init__(self, planner: KeepPromise) -> None:
        self.planner = planner
        self.audit: SlicePlan | None = None

    def next(self, slices: Slices) -> SlicePlan | None:
        plan = self.planner.next(slices)
        if plan is not None and isinstance(plan.record, SliceRecord) and plan.record.promise is not None:
            self.audit, plan = plan, None
        return plan

    def models(self, purpose):
        return self.planner.models(purpose)


def freeze(old: Path, new: Path, target: str) -> Frozen:
    """Carry out a refresh until its audit is planned."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.lance"
        import_outputs(path, old, model="old")
        cache = Cache.open(path)
        options = RefreshOptions(consistency=target, confidence=CONFIDENCE, scorer="entropy")
        round_ = prepare_round(cache, [load_model(f"new={new}")], options)
        planner, staging = UntilAudit(KeepPromise(round_, None)), Staging(cache.staged_round)

        def run(part, models, chunk_rows):
            return run_order(part, models, None, chunk_rows=chunk_rows, kind=cache.metadata.kind)

        run_slices(staging, planner, run)
        assert planner.audit is not None
        table = planner.audit.tables[FROZEN]
        position = table["position"].to_numpy()
        answers = read_outputs(new)
        classes = dict(zip(answers.ids.to_pylist(), answers.probs.argmax(axis=1).tolist(), strict=True))
        stored = list(cache.scan())
        ids = np.concatenate([rows.ids.to_numpy(zero_copy_only=False) for rows in stored])
        changed = np.concatenate([rows.probs.argmax(axis=1) for rows in stored]) != np.array(
            [classes[name] for name in ids]
        )
        chances = planner.planner._chances()
    promised = planner.audit.record.promise.groups[0]
    wrong = changed[position]
    left = np.append(np.cumsum(wrong[::-1])[::-1], 0)
    allowed = allowed_wrong(len(ids), Fraction(target.rstrip("%")) / 100)
    # What was run before the audit came in the order by entropy, too; where it was more than needed, going back
    # in that order finds the best threshold.
    before = np.setdiff1d(np.arange(len(ids)), position)
    skip = len(position) - int(np.argmax(left <= allowed))
    if left[0] <= allowed:
        rows = cache_order(stored, before)
        room = allowed - int(left[0])
        ends = np.flatnonzero(np.cumsum(changed[rows]) > room)
        skip = len(position) + (int(ends[0]) if len(ends) else len(rows))
    draws = int(table["audited"].to_numpy(zero_copy_only=False).sum())
    return Frozen(len(ids), len(before), wrong, chances[position], promised, draws, skip)


def cache_order(stored, positions):
    """Sort rows that were run by entropy, least first."""
    from sparing.numerics.distributions import entropy

    unsure = np.concatenate([entropy(rows.probs) for rows in stored])
    return positions[np.argsort(unsure[positions], kind="stable")]


def larger(small: Frozen, target: str) -> Frozen:
    """Resample a frozen promise to a larger cache."""
    allowed = allowed_wrong(small.rows * TIMES, Fraction(target.rstrip("%")) / 100)
    chances = np.repeat(small.chances, TIMES)
    plan = plan_audit(chances, allowed, ALPHA)
    promised = PromisedRows(name="", rows=small.rows * TIMES, allowed=allowed, limit=plan.limit, failed=0)
    wrong = np.repeat(small.wrong, TIMES)
    return Frozen(
        small.rows * TIMES, small.run * TIMES, wrong, chances, promised, plan.draws, small.best * TIMES
    )


def audit(frozen: Frozen, rng: np.random.Generator) -> tuple[int, bool]:
    """Draw the audit once and finish the round: rows skipped, and whether the promise was broken."""
    count = len(frozen.wrong)
    audited = np.zeros(count, dtype=bool)
    audited[rng.choice(count, frozen.draws, replace=False)] = True
    tried = audited.copy()
    rows = AuditedRows(
        frozen.promised,
        np.arange(count),
        score=np.zeros(count, np.float32),
        audited=audited,
        tried=tried,
        right=tried,
        wrong=frozen.wrong & tried,
        alpha=ALPHA,
    )
    cut = rows.cut
    while len(places := rows.to_run(frozen.promised.allowed)):
        tried = tried.copy()
        tried[places] = True
        rows = replace(rows, tried=tried, right=tried, wrong=frozen.wrong & tried)
        rows.__dict__["cut"] = cut
    left = frozen.wrong & ~tried
    return int((~tried).sum()), bool(left.sum() > frozen.promised.allowed)


def betting(sample: Doubles, mean: float, rows: int, alpha: float, above: bool) -> bool:
    """Return whether a sample shows that the mean of so many rows is above, or below, a value."""
    i = np.arange(1, len(sample) + 1)
    before = np.concatenate([[0.0], np.cumsum(sample)[:-1]])
    expected = (rows * mean - before) / (rows - i + 1)
    if above and (expected > 1).any():
        return False  # cannot be shown any more
    guess = (0.5 + np.cumsum(sample)) / (i + 1)
    spread = (0.25 + np.cumsum((sample - guess) ** 2)) / (i + 1)
    last = np.concatenate([[0.25], spread[:-1]])
    bet = np.sqrt(2 * np.log(2 / alpha) / (i * np.log(i + 1) * last))
    if above:
        bet = np.minimum(bet, 0.75 / np.maximum(expected, 1e-9))
        capital = np.cumsum(np.log(np.maximum(1 + bet * (sample - expected), 1e-300)))
    else:
        bet = np.minimum(bet, 0.75 / np.maximum(1 - expected, 1e-9))
        capital = np.cumsum(np.log(np.maximum(1 - bet * (sample - expected), 1e-300)))
    return bool(capital.max() >= np.log(1 / alpha))


def bargain(wrong: Bools, share: float, rng: np.random.Generator, patience: int | None) -> tuple[int, bool]:
    """Choose a threshold by BARGAIN's rule: rows skipped, and whether the target was missed.

    Args:
        wrong: shape (n,), the least sure row first.
        share: the accuracy target.
        rng: draws the rows.
        patience: how many rows are drawn at most before a threshold is given up; None as in its code.
    """
    right = ~wrong[::-1]
    n = len(right)
    step, order = n // 20, rng.permutation(n)
    best, seen = 0, np.zeros(n, dtype=bool)
    for end in range(step, n + 1, step):
        target = (share * n - (n - end)) / end
        if target <= 0:
            best = end
            continue
        among, shown, taken = order[order < end], False, 0
        while taken < end:
            taken = min(taken + 10, end)
            sample = right[among[:taken]].astype(float)
            if taken == end:
                shown = sample.mean() >= target
                break
            above = sample.mean() >= target
            if betting(sample, target, end, ALPHA, above):
                shown = above
                break
            if patience is None and taken >= 50 and sample.mean() - sample.std() < target:
                break
            if patience is not None and taken >= patience:
                break
        seen[among[:taken]] = True
        if not shown:
            break
        best = end
    skipped = np.zeros(n, dtype=bool)
    skipped[:best] = True
    skipped &= ~seen
    return int(skipped.sum()), bool((skipped & ~right).sum() > n - np.ceil(round(share * n, 9)))


def figures(runs: list[tuple[int, bool]], best: int) -> tuple[float, float, float]:
    """The mean skip as a share of the best, its standard deviation, and the share of broken promises."""
    skips = np.array([skip for skip, _ in runs]) / best
    return float(skips.mean()), float(skips.std()), float(np.mean([broken for _, broken in runs]))


def ideal(frozen: Frozen) -> tuple[float, float]:
    """Compute what no sample of one draw can beat, with every rate known and normal errors.

    The rows that the best threshold skips have known, smoothed rates p, with r at the threshold. Auditing row i
    with probability pi costs pi * (1 - p / r) of the skip (a wrong row that is found makes room for 1 / r
    others), and an error of the count of sqrt(sum p (1 - p) (1 / pi - 1)) costs 1.645 / r times as much.

    Returns:
        The largest skip as a share of the best: with one pi for all rows, and with the best pi for each.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.isotonic import IsotonicRegression

    count = len(frozen.wrong)
    rates = IsotonicRegression(increasing=False).fit_transform(np.arange(count), frozen.wrong.astype(float))
    p = rates[-min(frozen.best, count) :]
    r = max(float(p[0]), 1e-9)
    saved, spread = np.clip(1 - p / r, 0, 1), p * (1 - p)
    shapes = np.ones(len(p)), np.sqrt(spread / np.maximum(saved, 1e-9))

    def cost(level: float, shape: Doubles) -> float:
        chance = np.minimum(1, np.exp(level) * shape)
        safe = np.maximum(chance, 1e-12)
        return float((chance * saved).sum() + 1.645 / r * np.sqrt((spread * (1 / safe - 1)).sum()))

    found = [minimize_scalar(cost, bounds=(-9, 4), args=(shape,), method="bounded").fun for shape in shapes]
    return 1 - found[0] / frozen.best, 1 - found[1] / frozen.best


def supg_outputs(name: str, data: Path, work: Path) -> tuple[Path, Path]:
    """Return outputs of two classes: the proxy's scores, and the labels as the new model's answers."""
    table = pq.read_table(data / f"{name}.parquet")
    score, label = table["proxy_score"].to_numpy(), table["label"].to_numpy()
    paths = work / f"{name}_proxy.parquet", work / f"{name}_label.parquet"
    work.mkdir(parents=True, exist_ok=True)
    for path, positive in zip(paths, (score, label), strict=True):
        second = positive.astype(np.float32)
        write_outputs(path, table["id"], np.column_stack([1 - second, second]))
    return paths


def measure(task):
    """Measure one pair and target."""
    old, new, target, repeats = task
    frozen = freeze(old, new, target)
    rng = np.random.default_rng(0)
    ours = figures([audit(frozen, rng) for _ in range(repeats)], frozen.best)
    wrong = np.concatenate([whole_order(old, new)])
    share = float(target.rstrip("%")) / 100
    published = figures([bargain(wrong, share, rng, None) for _ in range(repeats // 5)], frozen.best)
    patience = max(frozen.draws, 100)
    patient = figures([bargain(wrong, share, rng, patience) for _ in range(repeats // 5)], frozen.best)
    bounds = ideal(frozen)
    if frozen.rows != 10_000:
        return target, frozen, (ours, bounds), (published, patient), None
    big = larger(frozen, target)
    large = figures([audit(big, rng) for _ in range(min(LARGE_REPEATS, repeats))], big.best)
    return target, frozen, (ours, bounds), (published, patient), (big.draws, large)


def whole_order(old: Path, new: Path) -> Bools:
    """Return which rows change, the least sure first."""
    from sparing.numerics.distributions import entropy

    before, after = read_outputs(old), read_outputs(new)
    where = {name: i for i, name in enumerate(after.ids.to_pylist())}
    at = np.array([where[name] for name in before.ids.to_pylist()])
    changed = before.probs.argmax(axis=1) != after.probs[at].argmax(axis=1)
    return changed[np.argsort(-entropy(before.probs), kind="stable")]


def main() -> None:
    """Measure everything and print a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only pairs whose name has this in it")
    given = parser.parse_args()
    pairs, tasks = [], []
    for folder, old, new in CIFAR:
        if folder == "cifar100":
            paths = [cifar_outputs(name, given.data / folder, given.work / folder) for name in (old, new)]
            for target in TARGETS:
                pairs.append(f"{old} → {new}")
                tasks.append((*paths, target, given.repeats))
    for name, target in SUPG:
        pairs.append(f"supg {name}")
        tasks.append((*supg_outputs(name, given.data / "supg", given.work / "supg"), target, given.repeats))
    chosen = [at for at, name in enumerate(pairs) if given.only in name]
    pairs, tasks = [pairs[at] for at in chosen], [tasks[at] for at in chosen]
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(measure, tasks))
    print("# A promise of consistency\n")
    print(f"    python benchmarks/consistency_target.py --data DATA --work WORK --repeats {given.repeats}"
          + (f" --only '{given.only}'" if given.only else "") + "\n")  # fmt: skip
    print(f"{describe()}\n")
    print(
        f"Confidence 95 %, {given.repeats:,} audits per line ({given.repeats // 5:,} for BARGAIN, "
        f'{min(LARGE_REPEATS, given.repeats)} for a million rows). "Skip" is the mean share that is not run, as a '
        'share of the best threshold in hindsight, ± its standard deviation over the draws; "broken" is how often '
        "fewer rows agreed than was promised.\n"
    )
    heads = ["pair", "target", "best skip", "audited", "skip", "broken", "at most, uniform", "at most, any"]
    heads += ["BARGAIN, published", "broken", "BARGAIN, patient", "broken"]
    heads += ["a million: audited", "skip", "broken"]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for name, (target, frozen, (ours, bounds), theirs, large) in zip(pairs, found, strict=True):
        cells = [name, target, f"{frozen.best / frozen.rows:.3f}", f"{frozen.draws:,}"]
        cells += [f"{ours[0]:.3f} ± {ours[1]:.3f}", f"{ours[2]:.3f}", *(f"{each:.3f}" for each in bounds)]
        for each in theirs:
            cells += [f"{each[0]:.3f}", f"{each[2]:.3f}"]
        cells += ["", "", ""] if large is None else [f"{large[0]:,}", *(f"{x:.3f}" for x in large[1][::2])]
        print(f"| {' | '.join(cells)} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
