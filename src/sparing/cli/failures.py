"""What a failed command says: a line on stderr, with --json an object on stdout too, never a traceback."""

import errno
import json
import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import typer

from sparing.cli.terminal import printable, results
from sparing.errors import SparingError

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

DEBUG = "SPARING_DEBUG"
"""The environment variable that asks for the traceback of an unexpected error."""

# typer has a copy of click inside in some releases and not in others.
Usage: type[Exception] = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")
"""What typer raises for wrong usage."""


@dataclass(frozen=True)
class Failure:
    """Why a command ended.

    Attributes:
        type: the class of the error.
        message: what was wrong, where, and what to do.
        hint: what else helps; None where the message says it all.
        code: the exit code.
    """

    type: str
    message: str
    hint: str | None = None
    code: int = 1


def explain(error: BaseException) -> Failure:
    """Put an error into words."""
    name = type(error).__name__
    if isinstance(error, SparingError):
        return Failure(name, str(error))
    if isinstance(error, KeyboardInterrupt):
        return Failure("Interrupted", "interrupted", code=INTERRUPTED)
    if isinstance(error, Usage):
        message = error.format_message()  # type: ignore[attr-defined]
        return Failure("UsageError", message, "see --help", error.exit_code)  # type: ignore[attr-defined]
    if isinstance(error, MemoryError):
        return Failure(name, "out of memory: give a smaller --batch-size, or a machine with more memory")
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        where = "" if error.filename is None else f": {error.filename}"
        return Failure(name, f"{error.strerror}{where}")
    said = " ".join(str(error).split())
    return Failure(
        name,
        f"unexpected {name}: {said[:500]}" if said else f"unexpected {name}",
        f"this is a fault of Sparing, or a damaged file: please report it with the command; {DEBUG}=1 in the "
        "environment shows where it happened",
    )


def as_dict(error: BaseException) -> dict[str, Any]:
    """Return what is printed of an error with --json."""
    failure = explain(error)
    return {"error": {"type": failure.type, "message": failure.message, "hint": failure.hint}}


def tell(error: BaseException, as_json: bool) -> int:
    """Print why a command ended.

    Returns:
        The exit code.
    """
    failure = explain(error)
    if os.environ.get(DEBUG, "0") not in ("", "0") and not isinstance(error, Usage | KeyboardInterrupt):
        traceback.print_exception(error, file=sys.stderr)
    if as_json:
        print(json.dumps(as_dict(error), indent=2), file=results(), flush=True)
    said = failure.message if failure.code == INTERRUPTED else f"error: {failure.message}"
    for line in (said, failure.hint and f"hint: {failure.hint}"):
        if line:
            typer.echo(printable(line), err=True)
    return failure.code
