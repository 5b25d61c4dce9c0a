"""One refresh of a CIFAR-100 cache: what each scorer keeps, and what half the work costs.

    python benchmarks/cifar100_refresh.py --data DATA/cifar100 --work WORK

Part one fits rankers on 5,000 of the 10,000 test rows and judges every scorer on the other 5,000, over five
seeds, from `resnet20` and from `resnet20_distilled` to `resnet56`. Part two times real forwards: a 50 % refresh
against a full re-run through the same job, in interleaved pairs, ranked by a ranker that was fitted beforehand on
other rows (the same pictures, mirrored). WORK keeps exported models and outputs between runs.
"""

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from cifar import export, outputs
from machine import describe, load
from sparing.budget import KEEP, Budget, plan
from sparing.data.tables import write_outputs
from sparing.models import load_model, run
from sparing.numerics.metrics import accuracy, consistency
from sparing.numerics.selection import tie_keys
from sparing.refresh import RefreshOptions, refresh, train_ranker
from sparing.refresh.scoring import ScoringRows
from sparing.refresh.scoring.ranking import make_ranking

PAIRS = (("resnet20", "resnet56"), ("resnet20_distilled", "resnet56"))
RATES = ("0.2", "0.5", "0.8")
SCORERS = ("entropy", "least-confidence", "margin", "router", "router (plain, as in the paper)", "random")
FITTED = 5000


Scores = dict[str, dict[str, list[tuple[float, float]]]]


def quality(old_name: str, new_name: str, data: Path, work: Path, seeds: int) -> Scores:
    old, new = outputs(old_name, data, work), outputs(new_name, data, work)
    # A cache stores float16: judge what a refresh would read.
    cached = old.probs.astype(np.float16).astype(np.float32)
    results: Scores = {scorer: {rate: [] for rate in RATES} for scorer in SCORERS}
    for seed in range(seeds):
        shuffled = np.random.default_rng(seed).permutation(len(cached))
        fit, judge = shuffled[:FITTED], shuffled[FITTED:]
        ties = tie_keys(old.ids, seed)[judge]
        for scorer in SCORERS:
            if scorer.startswith("router"):
                form = "plain" if "plain" in scorer else "sorted"
                ranker = train_ranker(cached[fit], [new.probs[fit]], [new_name], ["-"], form=form, seed=seed)
                benefits = ranker.benefits(cached[judge])
            else:
                rows = ScoringRows(outputs=cached[judge], ties=ties)
                benefits = make_ranking(scorer, [new_name], new_name).benefits(rows)
            for rate in RATES:
                refreshed = plan(benefits, [1.0], ties, Budget(Decimal(rate), "share")) != KEEP
                full = new.probs[judge].argmax(axis=1)
                stored = np.where(refreshed, full, cached[judge].argmax(axis=1))
                results[scorer][rate].append((accuracy(stored, old.labels[judge]), consistency(stored, full)))
    return results


def mirrored(data: Path, work: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Run the models over 5,000 mirrored pictures: outputs of rows that the cache does not hold."""
    paths = {name: work / f"{name}-mirrored.parquet" for name in names}
    if all(path.exists() for path in paths.values()):
        return paths
    table = pq.read_table(data / "test.parquet").slice(0, FITTED)
    values = []
    for encoded in table["image"].to_pylist():
        buffer = io.BytesIO()
        ImageOps.mirror(Image.open(io.BytesIO(encoded))).save(buffer, "png")
        values.append(buffer.getvalue())
    ids = [f"mirrored-{name}" for name in table["id"].to_pylist()]
    for name, path in paths.items():
        model = load_model(f"{name}={export(data / f'{name}.pth', work)}")
        write_outputs(path, pa.array(ids), run(model, ids, values)[0])
    return paths


def sparing(*arguments: object) -> tuple[float, dict]:
    started = time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("sparing")), *map(str, arguments), "--json"],
        check=True,
        stdout=subprocess.PIPE,
    )
    return time.perf_counter() - started, json.loads(done.stdout)


Pairs = list[tuple[float, float]]


def end_to_end(old_name: str, new_name: str, data: Path, work: Path, pairs: int) -> dict[str, Pairs]:
    """Time 50 % against 100 %, (half, full) per pair: the job alone, and the whole command around it."""
    outputs(old_name, data, work)
    other = mirrored(data, work, (old_name, new_name))
    start, ranker = work / "start.lance", work / f"ranker-{old_name}"
    shutil.rmtree(start, ignore_errors=True)
    sparing("cache", "import", start, "--from", work / f"{old_name}.parquet", "--model", old_name)
    sparing(
        "fit", start, "--outputs", f"{new_name}={other[new_name]}", "--old", other[old_name], "--out", ranker
    )
    spec = f"{new_name}={export(data / f'{new_name}.pth', work)}"
    model, samples, cache = load_model(spec), data / "test.parquet", work / "timed.lance"

    def job(budget: str) -> float:
        started = time.perf_counter()
        report = refresh(cache, [model], RefreshOptions(ranker=ranker, budget=budget), samples=samples)
        seconds = time.perf_counter() - started
        check(report.account["forwards"], budget)
        return seconds

    def command(budget: str) -> float:
        seconds, report = sparing(
            "refresh", cache, "--model", spec, "--samples", samples, "--ranker", ranker, "--budget", budget
        )
        check(report["account"]["forwards"], budget)
        return seconds

    def check(forwards: dict[str, int], budget: str) -> None:
        if forwards != {new_name: 5000 if budget == "50%" else 10000}:
            raise SystemExit(f"unexpected forwards under {budget}: {forwards}")

    measured: dict[str, Pairs] = {}
    for what, run_once in (("job", job), ("command", command)):
        measured[what] = []
        for pair in range(pairs):
            seconds = {}
            for budget in ("50%", "100%") if pair % 2 == 0 else ("100%", "50%"):
                shutil.rmtree(cache, ignore_errors=True)
                shutil.copytree(start, cache)
                seconds[budget] = run_once(budget)
                print(f"  {what}, pair {pair + 1}, {budget}: {seconds[budget]:.2f} s ({load()})", flush=True)
            measured[what].append((seconds["50%"], seconds["100%"]))
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with *.pth and test.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and outputs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cifar100_refresh.md")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    lines = [
        "# One refresh of a CIFAR-100 cache",
        "",
        "Command: `python benchmarks/cifar100_refresh.py --data DATA/cifar100 --work WORK"
        f" --seeds {arguments.seeds} --pairs {arguments.pairs}`  ",
        f"Machine: {describe()}",
        "",
        f"## Accuracy / consistency with a full re-run, in %, mean ± standard deviation of {arguments.seeds} seeds",
        "",
        f"Fitted on {FITTED:,} rows, judged on the other {10000 - FITTED:,}; the cache is float16.",
    ]
    for old_name, new_name in PAIRS:
        results = quality(old_name, new_name, arguments.data, arguments.work, arguments.seeds)
        lines += [
            "",
            f"### {old_name} → {new_name}",
            "",
            "| scorer | " + " | ".join(f"{float(rate):.0%}" for rate in RATES) + " |",
            "|---|" + "---|" * len(RATES),
        ]
        for scorer in SCORERS:
            cells = []
            for rate in RATES:
                values = 100 * np.array(results[scorer][rate])
                mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
                cells.append(f"{mean[0]:.2f} ± {spread[0]:.2f} / {mean[1]:.2f} ± {spread[1]:.2f}")
            lines.append(f"| {scorer} | " + " | ".join(cells) + " |")
    print("\n".join(lines), flush=True)
    if arguments.pairs:
        old_name, new_name = PAIRS[0]
        print(f"timing {arguments.pairs} pairs of {old_name} → {new_name}:", flush=True)
        measured = end_to_end(old_name, new_name, arguments.data, arguments.work, arguments.pairs)
        timing = [
            "",
            f"## A 50 % refresh against a full re-run, {old_name} → {new_name}, real forwards",
            "",
            f"Wall seconds, 5,000 forwards against 10,000, {arguments.pairs} interleaved pairs; the ranker was fitted beforehand",
            "on mirrored pictures. *Job*: one call of `refresh`, from opening the cache and the samples to the",
            "commit. *Command*: `sparing refresh` as a process, its start and its imports included.",
            "",
            "| | pair | 50 % | 100 % | ratio |",
            "|---|---|---|---|---|",
        ]
        for what, pairs in measured.items():
            timing += [
                f"| {what} | {i + 1} | {h:.2f} | {f:.2f} | {h / f:.3f} |" for i, (h, f) in enumerate(pairs)
            ]
            half, full = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(h / f for h, f in pairs)
            timing.append(f"| **{what}** | **median** | **{half:.2f}** | **{full:.2f}** | **{ratio:.3f}** |")
        print("\n".join(timing))
        lines += timing
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
