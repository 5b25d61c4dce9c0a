"""`sparing route calibrate` and `evaluate`: turn budgets into operating points, and judge them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparing.cli.options import ColumnOption
from sparing.cli.output import JsonOption, print_json, progress, say, share
from sparing.cli.route_budget import budget_cost

if TYPE_CHECKING:
    from sparing.route.evaluation import Part, PointReport, RouteReport

app = typer.Typer()

RouterArgument = Annotated[
    Path, typer.Argument(metavar="ROUTER", help="The folder of the router.", show_default=False)
]
ExpertsArgument = Annotated[
    Path,
    typer.Argument(metavar="EXPERTS", help="The folder that `route profile` made.", show_default=False),
]
LabelledOption = Annotated[
    str,
    typer.Option(
        "--samples", metavar="PATH", help="A Parquet table or Lance dataset with labels.", show_default=False
    ),
]
CorruptOption = Annotated[
    str | None,
    typer.Option(
        "--corrupt", metavar="KINDS", help="See every image at four severities too: blur, noise or both."
    ),
]
BatchedOption = Annotated[
    bool, typer.Option("--batched", help="Count the latency per sample of batches, not of single samples.")
]


@app.command(epilog="Example: sparing route calibrate router/ experts/ --samples val.parquet --latency 5ms")
def calibrate(
    router: RouterArgument,
    experts: ExpertsArgument,
    samples: LabelledOption,
    latency: Annotated[
        list[str] | None,
        typer.Option(help="A budget for the mean latency, such as 5ms. Repeat for several."),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(help="Limit this quantile of the latency instead of the mean, such as 0.95."),
    ] = None,
    cost_budget: Annotated[
        list[float] | None,
        typer.Option(help="A budget for the mean of the experts' stated costs. Repeat for several."),
    ] = None,
    batched: BatchedOption = False,
    corrupt: CorruptOption = None,
    column: ColumnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn budgets into operating points of a router; the last one is its default.

    Use samples that neither the experts nor the router were trained on, as hard as those to come.
    """
    from sparing.route.calibration import calibrate as run
    from sparing.route.calibration import to_json

    opened, profile, variants = _open(router, experts, corrupt)
    with progress("experts") as show:
        found = run(
            opened,
            profile,
            _samples(samples, column),
            latencies=latency or [],
            q=quantile,
            cost_budgets=cost_budget or [],
            batched=batched,
            variants=variants,
            progress=show,
        )
    result = {"router": str(router), **to_json(found)}
    if as_json:
        print_json(result)
    else:
        _tell_calibrated(result)


@app.command(
    epilog="Example: sparing route evaluate router/ experts/ --samples test.parquet --corrupt blur,noise"
)
def evaluate(
    router: RouterArgument,
    experts: ExpertsArgument,
    samples: LabelledOption,
    corrupt: CorruptOption = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Judge this operating point, named as it was calibrated; by default all."),
    ] = None,
    batched: BatchedOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Write the curves to this self-contained HTML page.")
    ] = None,
    column: ColumnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a router beside single experts, mixtures, cascades and the oracle, and say what is better.

    Use samples that neither the experts, the router nor its calibration have seen.
    """
    from dataclasses import asdict

    from sparing.route.evaluation import evaluate as run

    opened, profile, variants = _open(router, experts, corrupt)
    with progress("experts") as show:
        report = run(
            opened,
            profile,
            _samples(samples, column),
            variants=variants,
            budget=budget,
            batched=batched,
            progress=show,
        )
    if html is not None:
        _write_page(html, report)
    if as_json:
        print_json({"router_path": str(router), **asdict(report)})
    else:
        _tell(report)


def _open(router: Path, experts: Path, corrupt: str | None) -> tuple[Any, Any, Any]:
    from sparing.images import variants
    from sparing.route.profiling import open_profile
    from sparing.route.router import open_router

    chosen = variants(corrupt)
    return open_router(router), open_profile(experts), chosen


def _samples(path: str, column: str | None) -> Any:
    from sparing.data.samples import open_samples

    return open_samples(path, column=column)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.2f}"


def _tell_calibrated(result: dict[str, Any]) -> None:
    say(f"{result['samples']:,} samples, seen as: {', '.join(result['variants'])}")
    for name, fitted in (result["chances"] or {}).items():
        say(
            f"  {name}: calibration error {share(fitted['calibration_error_before'])} before, "
            f"{share(fitted['calibration_error_after'])} after, on these samples"
        )
    for point in result["points"]:
        shares = ", ".join(f"{share(part)} {name}" for name, part in point["shares"].items())
        spent, allowed = (budget_cost(point[name], point["unit"]) for name in ("spent", "allowed"))
        latency = "" if point["unit"] == "seconds" else f", {_ms(point['latency'])} ms"
        say(
            f"{point['budget']}: {spent} (at most {allowed}){latency}, accuracy {share(point['accuracy'])}; "
            f"to {shares}"
        )
        for note in point["notes"]:
            say(f"  note: {note}")
    if result["dropped"]:
        say(f"dropped, since the chances changed: {', '.join(result['dropped'])}; calibrate them again")


def _tell(report: "RouteReport") -> None:
    decoding = "" if report.decoding is None else f"; decoding {_ms(report.decoding)} ms is in every latency"
    say(
        f"{report.samples:,} samples, seen as: {', '.join(report.variants)}; "
        f"{'batches' if report.batched else 'one sample at a time'}; router {_ms(report.router)} ms{decoding}"
    )
    for point in report.points:
        say("")
        say(_heading(point))
        for part in point.parts:
            _tell_part(part)
        for sentence in point.advice:
            say(sentence)
    say("")
    for note in report.notes:
        say(f"note: {note}")


def _heading(point: "PointReport") -> str:
    if point.budget is None or point.unit is None or point.spent is None:
        return "as trained"
    return f"budget {point.budget}: spent {budget_cost(point.spent, point.unit)}"


def _tell_part(part: "Part") -> None:
    say(f"{part.name} ({part.samples:,})")
    width = max(len(_called(row)) for row in part.rows) + 2
    say(
        f"  {'policy':<{width}}{'accuracy':>10}{'mean ms':>10}{'p95 ms':>10}{'headroom':>10}"
        f"{'behind':>16}  shares"
    )
    for row in part.rows:
        shares = "-" if row.shares is None else " ".join(f"{100 * one:.1f}%" for one in row.shares)
        error = "" if row.error is None else f" ± {196 * row.error:.2f}"
        behind = "" if row.kind == "router" else f"{100 * row.behind:+.2f}{error}"
        headroom = "-" if row.headroom != row.headroom else f"{round(row.headroom, 2) + 0.0:.2f}"
        say(
            f"  {_called(row):<{width}}{share(row.accuracy):>10}{_ms(row.latency):>10}{_ms(row.p95):>10}"
            f"{headroom:>10}{behind:>16}  {shares}"
        )
    if part.calibration_error:
        errors = ", ".join(f"{name} {share(error)}" for name, error in part.calibration_error.items())
        say(f"  calibration error: {errors}")


def _called(row: Any) -> str:
    return str(row.name) if row.kind in ("router", "expert", "oracle") else f"{row.kind} {row.name}"


def _write_page(path: Path, report: "RouteReport") -> None:
    from html import escape

    import plotly.graph_objects as go

    from sparing.pages import write_page

    figure = go.Figure()
    for name, curve in report.curves.items():
        times = [1000 * seconds for seconds in curve["latency"]]
        figure.add_scatter(x=times, y=curve["accuracy"], name=name, mode="lines")
    rows = [(point.budget or "router", point.parts[0].rows[0]) for point in report.points]
    rows += [(row.name, row) for row in report.points[0].parts[0].rows if row.kind == "expert"]
    figure.add_scatter(
        x=[1000 * row.latency for _, row in rows],
        y=[row.accuracy for _, row in rows],
        text=[name for name, _ in rows],
        name="router and experts",
        mode="markers+text",
        textposition="top center",
    )
    figure.update_layout(xaxis_title="mean latency, ms", yaxis_title="accuracy", height=600)
    said = [
        f"<p><b>{escape(point.budget or 'as trained')}</b>: {escape(' '.join(point.advice))}</p>"
        for point in report.points
    ]
    write_page(path, "One expert per input", [*said, figure, *(f"<p>{escape(n)}</p>" for n in report.notes)])
