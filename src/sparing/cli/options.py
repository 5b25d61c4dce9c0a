"""Options that several verbs share, and how they become models."""

import sys
from contextlib import redirect_stdout
from dataclasses import replace
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
ModelClassesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        metavar="NAME=FILE",
        help="The class names of a model, one a line, if they differ from the cache's. Repeat for several.",
    ),
]
RenameOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="OLD=NEW|FILE",
        help="A class that got another name, or a file with one OLD=NEW a line. Repeat for several.",
    ),
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
    classes: list[str] | None = None,
) -> "list[Model]":
    """Load candidates as the options describe them."""
    from sparing.errors import InputError
    from sparing.models import load_model

    stated = stated_costs(costs)
    names = [spec.split("=", 1)[0] for spec in specs]
    for name in stated:
        if name not in names:
            raise InputError(f"--cost names {name!r}, but the models are {', '.join(names)}")
    named = given_classes(classes, names)
    models = []
    for name, spec in zip(names, specs, strict=True):
        cost, unit = stated.get(name, (None, "seconds"))
        with redirect_stdout(sys.stderr):  # what a module prints when it is loaded
            loaded = load_model(
                spec, cost=cost, unit=unit, batch_size=batch_size, threads=threads, providers=providers
            )
        models.append(replace(loaded, classes=named.get(name.strip(), loaded.classes)))
    return models


def given_classes(given: list[str] | None, names: list[str]) -> dict[str, tuple[str, ...]]:
    """Read the option `--classes NAME=FILE`: class names by model."""
    from sparing.errors import InputError

    found = {}
    for text in given or []:
        name, equals, path = text.partition("=")
        if not equals:
            raise InputError(
                f"--classes {text!r} names no model: write NAME=FILE, for example new=classes.txt"
            )
        if name not in names:
            raise InputError(f"--classes names {name!r}, but the models are {', '.join(names)}")
        found[name] = tuple(read_class_names(Path(path)))
    return found


def read_class_names(path: Path) -> list[str]:
    """Read class names, one a line."""
    from sparing.errors import InputError
    from sparing.outputs.classes import check_names

    try:
        names = path.read_text("utf-8-sig").splitlines()  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the class names in {path} cannot be read: {error}") from error
    check_names(names, str(path))
    return names


def given_renames(given: list[str] | None) -> dict[str, str]:
    """Read the option `--rename`: OLD=NEW, or a file with one such line per class."""
    from sparing.errors import InputError

    found: dict[str, str] = {}
    for text in given or []:
        lines = [text]
        if "=" not in text or Path(text).is_file():
            try:
                lines = [line for line in Path(text).read_text("utf-8-sig").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    f"--rename {text!r}: neither OLD=NEW nor a file of such lines that can be read: {error}"
                ) from error
        for line in lines:
            before, equals, after = line.partition("=")
            if not (equals and before.strip() and after.strip()):
                raise InputError(f"--rename {text!r}: {line!r} is not of the form OLD=NEW")
            if found.get(before.strip(), after.strip()) != after.strip():
                raise InputError(f"--rename gives {before.strip()!r} two new names")
            found[before.strip()] = after.strip()
    return found


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
