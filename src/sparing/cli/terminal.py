"""What reaches a terminal: text without control characters, and with --json nothing but one JSON object."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but tab and newline, marks that reverse the direction of text, halves of characters.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_results: TextIO | None = None
"""Where JSON goes while everything else that is printed goes to stderr."""


def printable(text: str) -> str:
    r"""Write control characters as `\x1b`: ids and names from files must not steer the terminal."""
    return _HIDDEN.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def cell(text: str) -> str:
    """Return text that stays on its line; see `printable`."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def console(width: int | None = None) -> "Console":
    """Return a console for tables, which takes text as it is: brackets in a name are no markup."""
    from rich.console import Console

    return Console(width=width, highlight=False, markup=False, emoji=False)


def results() -> TextIO:
    """Return the stream that results are printed to."""
    return sys.stdout if _results is None else _results


@contextmanager
def json_alone() -> Iterator[None]:
    """Send whatever the block prints to stderr, but not what is written to `results`.

    Libraries and processes that a model starts write to the file descriptor, not to `sys.stdout`: both go.
    """
    global _results
    before, kept = sys.stdout, None
    try:
        before.flush()
        if before.fileno() == 1:
            kept = os.dup(1)
            os.dup2(2, 1)
    except (OSError, ValueError):  # not a real file
        pass
    _results = before if kept is None else os.fdopen(os.dup(kept), "w", encoding="utf-8")
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        done, _results, sys.stdout = _results, None, before
        try:
            done.flush()
            if kept is not None:
                done.close()
        finally:
            if kept is not None:
                before.flush()
                os.dup2(kept, 1)
                os.close(kept)
