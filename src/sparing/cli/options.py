"""Options that several verbs share, and how they become models."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sparing.models import Model

CacheArgument = Annotated[
    Path, typer.Argument(metavar="CACHE", help="The folder of the cache.", show_default=False)
]
ModelsOption = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="NAME=SPEC",
        help="A candidate: file.onnx, file.parquet (stored outputs), package.module:function or "
        "path/to/file.py:function. Repeat for several.",
        show_default=False,
    ),
]
SamplesOption = Annotated[
    str | None,
    typer.Option(
        "--samples",
        metavar="PATH",
        help="A Parquet table with id and one value column, a Lance dataset, or a folder.",
    ),
]
ColumnOption = Annotated[
    str | None, typer.Option("--column", help="The value column of the samples, if there are several.")
]
CostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cost",
        metavar="NAME=COST",
        help="What one forward costs: a number of units, or a time such as 5ms. Repeat for several.",
    ),
]
BatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Samples per forward pass.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of ONNX Runtime.")]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option("--provider", help="Execution provider of ONNX Runtime. Repeat for several."),
]
NoCompactOption = Annotated[
    bool,
    typer.Option("--no-compact", help="Leave the cache's files as they are, however many there are."),
]


def load_models(
    specs: list[str],
    costs: list[str] | None,
    batch_size: int | None,
    threads: int | None,
    providers: list[str] | None,
) -> "list[Model]":
    """Load candidates as the options describe them."""
    from sparing.errors import InputError
    from sparing.models import load_model

    stated = stated_costs(costs)
    names = [spec.split("=", 1)[0] for spec in specs]
    for name in stated:
        if name not in names:
            raise InputError(f"--cost names {name!r}, but the models are {', '.join(names)}")
    models = []
    for name, spec in zip(names, specs, strict=True):
        cost, unit = stated.get(name, (None, "seconds"))
        with redirect_stdout(sys.stderr):  # what a module prints when it is loaded
            models.append(
                load_model(
                    spec, cost=cost, unit=unit, batch_size=batch_size, threads=threads, providers=providers
                )
            )
    return models


def stated_costs(costs: list[str] | None) -> dict[str, tuple[float, str]]:
    """Read the option `--cost`: cost and unit by name."""
    return dict(_cost(text) for text in costs or [])


def open_given_samples(path: str | None, column: str | None) -> object:
    """Open the samples that the options name, if they name any."""
    if path is None:
        return None
    from sparing.data.samples import open_samples

    return open_samples(path, column=column)


def _cost(text: str) -> tuple[str, tuple[float, str]]:
    from sparing.budget import Budget
    from sparing.errors import BudgetError, InputError

    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--cost {text!r} names no model: write NAME=COST, for example resnet56=5ms")
    try:
        return name, (float(value), "cost")
    except ValueError:
        budget = Budget.parse(value)
    if budget.unit != "seconds":
        raise BudgetError(f"--cost {text!r}: a cost is a number of units, or a time such as 5ms")
    return name, (float(budget.amount), "seconds")
