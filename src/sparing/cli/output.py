"""How verbs speak: one JSON object on stdout with --json, tables otherwise, hints on stderr."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer

from sparing.cli.terminal import printable, results

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def print_json(result: dict[str, Any]) -> None:
    """Print one JSON object on stdout; NaN and infinity, which JSON lacks, become null."""
    results().write(json.dumps(_finite(result), indent=2) + "\n")


def say(message: str = "") -> None:
    """Print a line of the result on stdout."""
    typer.echo(printable(message))


def hint(message: str) -> None:
    """Print a line for the person on stderr."""
    typer.echo(printable(message), err=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def share(value: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * value:.2f}%"


@contextmanager
def progress(what: str) -> Iterator[Callable[[Any], None] | None]:
    """Show how far a job has come, on a terminal only.

    Yields:
        What to call after every chunk; None when nobody is watching.
    """
    # What a model prints must not get between the JSON; it goes where progress goes.
    with redirect_stdout(sys.stderr):
        if sys.stderr.isatty():
            with _bar(what) as show:
                yield show
        else:
            yield None


@contextmanager
def _bar(what: str) -> Iterator[Callable[[Any], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(
            "{task.completed:,.0f}/{task.total:,.0f} rows, "
            "{task.fields[rate]} rows/s, {task.fields[left]} left"
        ),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="-", left="-", visible=False)
        first: list[int] = []

        def show(state: Any) -> None:
            first.append(state.done)
            rate = (state.done - first[0]) / state.seconds if state.seconds and len(first) > 1 else 0.0
            bar.update(
                task,
                completed=state.done,
                total=state.total,
                rate=f"{rate:,.0f}",
                left="-" if state.left is None else f"{state.left:,.0f} s",
                visible=True,
            )

        yield show
