"""Refresh a cache of predictions under a budget, on scikit-learn's handwritten digits.

    python examples/digits_demo.py --out demo-output

An old model (logistic regression, fitted on 60 digits) has filled a cache. A new one (a Gaussian process with
an RBF kernel, fitted on 500) is better and much slower. How much of the re-run has to be paid for?
"""

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from rich.console import Console
from rich.table import Table

import digits
import sparing
from sparing.numerics.metrics import accuracy, consistency
from sparing.pages import write_page

RATES = ("20%", "50%", "80%")
SCORERS = ("learned", "entropy", "random")
"""What ranks the rows: the default, and what it is compared with."""


@dataclass(frozen=True)
class Result:
    """One refresh: what it cost and what it left in the cache."""

    scorer: str
    budget: str
    accuracy: float
    consistency: float
    forwards: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for caches and report")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    console = Console()
    console.print("[bold]training an old and a new model on handwritten digits …[/bold]")
    digits.write(out)
    ids, _, labels = digits.data()
    model = sparing.from_callable(digits.new, name="new")

    cache = sparing.import_outputs(out / "digits.lance", out / "old.parquet", "old")
    console.print(f"a cache of {len(cache):,} predictions of the old model; refreshing it under budgets …\n")

    album = np.sort(ids[digits.ALBUM])

    def run(scorer: str, budget: str) -> tuple[Result, np.ndarray]:
        path = out / "run.lance"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(cache.path, path)
        started = time.perf_counter()
        report = sparing.refresh.refresh(
            path,
            [model],
            sparing.refresh.RefreshOptions(budget=budget, scorer=scorer),
            samples=out / "digits.parquet",
        )
        seconds = time.perf_counter() - started
        stored = sparing.Cache.open(path).get(pa.array(album)).probs.argmax(axis=1)
        reached = accuracy(stored, labels[digits.ALBUM])
        agreed = consistency(stored, full) if full is not None else 1.0
        return Result(
            scorer, budget, reached, agreed, report.account["forwards"].get("new", 0), seconds
        ), stored

    full = None
    rerun, full = run("entropy", "100%")
    before = cache.get(pa.array(album)).probs.argmax(axis=1)
    kept = Result("", "0%", accuracy(before, labels[digits.ALBUM]), consistency(before, full), 0, 0.0)
    results = [run(scorer, budget)[0] for budget in RATES for scorer in SCORERS]
    shutil.rmtree(out / "run.lance")

    console.print(as_table(kept, results, rerun))
    half = next(r for r in results if (r.scorer, r.budget) == ("learned", "50%"))
    plain = next(r for r in results if (r.scorer, r.budget) == ("entropy", "50%"))
    verdict = (
        f"Half of the forwards ({half.forwards} of {rerun.forwards}), the random ones at the start included, "
        f"took {half.seconds / rerun.seconds:.0%} of the time and left {half.consistency:.1%} of the cache "
        f"as a full re-run would have; ranked by entropy alone, {plain.consistency:.1%}. Accuracy: "
        f"{kept.accuracy:.1%} before, {half.accuracy:.1%} now, {rerun.accuracy:.1%} after a full re-run."
    )
    console.print(f"\n{verdict}")
    page = out / "report.html"
    write_page(
        page, "Refreshing a cache under a budget", [f"<p>{verdict}</p>", *figures(kept, results, rerun)]
    )
    console.print(f"\nreport: {page}\nlook around: sparing cache info {cache.path}")


def as_table(kept: Result, results: list[Result], rerun: Result) -> Table:
    table = Table(title="scikit-learn's digits: logistic regression → Gaussian process", title_justify="left")
    for column in ("budget", "ranked by"):
        table.add_column(column)
    for column in ("accuracy", "consistency", "forwards", "seconds", "of a full re-run"):
        table.add_column(column, justify="right")

    def add(result: Result, name: str, style: str = "") -> None:
        table.add_row(
            result.budget,
            name,
            f"{result.accuracy:.1%}",
            f"{result.consistency:.1%}",
            f"{result.forwards:,}",
            f"{result.seconds:.2f}",
            f"{result.seconds / rerun.seconds:.0%}",
            style=style,
        )

    add(kept, "nothing refreshed", "dim")
    for budget in RATES:
        table.add_section()
        for result in (r for r in results if r.budget == budget):
            add(result, result.scorer, "bold green" if result.scorer == "learned" else "")
    table.add_section()
    add(rerun, "full re-run", "dim")
    return table


def figures(kept: Result, results: list[Result], rerun: Result) -> list[go.Figure]:
    curve = go.Figure()
    for scorer in SCORERS:
        points = [kept, *(r for r in results if r.scorer == scorer), rerun]
        curve.add_scatter(
            x=[r.forwards / rerun.forwards for r in points],
            y=[r.consistency for r in points],
            name=scorer,
            mode="lines+markers",
        )
    curve.update_layout(
        title="How much of the full re-run's result each share of its forwards buys",
        xaxis={"title": "share of forwards", "tickformat": ".0%"},
        yaxis={"title": "consistency with a full re-run", "tickformat": ".0%"},
    )
    routed = [r for r in results if r.scorer == "learned"]
    saving = go.Figure(
        go.Bar(
            x=[*(r.budget for r in routed), "full re-run"],
            y=[*(r.seconds for r in routed), rerun.seconds],
            text=[*(f"{r.seconds:.2f} s" for r in routed), f"{rerun.seconds:.2f} s"],
        )
    )
    saving.update_layout(
        title="Seconds, everything included", xaxis={"title": "budget"}, yaxis={"title": "seconds"}
    )
    return [curve, saving]


if __name__ == "__main__":
    main()
