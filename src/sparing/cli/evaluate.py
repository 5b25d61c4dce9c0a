"""`sparing evaluate`: scorers side by side on outputs that are known."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparing.cli.output import JsonOption, print_json, say

EPILOG = (
    "Example: sparing evaluate --old resnet20.parquet --new resnet56=resnet56.parquet "
    "--rates 20%,50%,80% --scorers all --seeds 5"
)


def evaluate(
    old: Annotated[
        list[Path],
        typer.Option(
            "--old",
            metavar="FILE",
            help="The cached model's outputs. Repeat for further cached models, whose agreement is a scorer.",
        ),
    ],
    new: Annotated[
        list[str],
        typer.Option("--new", metavar="[NAME=]FILE", help="A new model's outputs. Repeat for several."),
    ],
    rates: Annotated[str, typer.Option("--rates", help="Update rates to compare at.")] = "20%,50%,80%",
    scorers: Annotated[
        str, typer.Option("--scorers", help="Names separated by commas, or all: {all_scorers}.")
    ] = "all",
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=1000, help="How many random splits.")] = 5,
    train_rows: Annotated[
        int | None,
        typer.Option("--train-rows", min=2, help="Rows to fit on; by default half, at most 5,000."),
    ] = None,
    cross_fit: Annotated[
        bool,
        typer.Option("--cross-fit", help="Judge every row: each half is scored by what the other taught."),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option("--target", help="The model whose full re-run is the reference; the last by default."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare scorers on output tables, and say which to use on this data.

    The tables are Parquet files with id, probs and, if known, label; rows are matched by id.
    """
    from dataclasses import asdict

    from sparing.evaluate import evaluate as run_evaluate

    result = run_evaluate(
        old[0],
        named_files(new),
        rates=[rate.strip() for rate in rates.split(",") if rate.strip()],
        scorers=scorers,
        seeds=seeds,
        train_rows=train_rows,
        cross_fit=cross_fit,
        target=target,
        others=old[1:],
    )
    if as_json:
        print_json(asdict(result))
        return
    _tell(result)


def named_files(specs: list[str]) -> dict[str, str]:
    """Read NAME=FILE or FILE, which is called by its stem."""
    from sparing.errors import InputError

    files: dict[str, str] = {}
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not equals:
            name, path = Path(spec).stem, spec
        if name in files:
            raise InputError(f"two models are called {name!r}: write NAME=FILE with different names")
        files[name] = path
    return files


def _tell(result: Any) -> None:
    say(
        f"{result.rows:,} common rows: {result.train_rows:,} to learn from, {result.test_rows:,} judged; "
        f"target {result.target}"
    )
    for rate in next(iter(result.scorers.values())):
        say(f"update rate {rate}")
        say(f"  {'scorer':<20}{'accuracy':>16}{'consistency':>16}{'headroom':>10}{'forwards':>10}")
        for name, by_rate in result.scorers.items():
            figures = by_rate[rate]
            say(
                f"  {name:<20}{_spread(figures, 'accuracy'):>16}{_spread(figures, 'consistency'):>16}"
                f"{figures['headroom']:>10.3f}{figures['forwards']:>10,}"
            )
    for note in result.notes:
        say(f"note: {note}")
    say(result.advice)


def _spread(figures: dict[str, float | None], key: str) -> str:
    value, spread = figures[key], figures[f"{key}_std"]
    return "-" if value is None or spread is None else f"{100 * value:.2f} ± {100 * spread:.2f}"
