"""Rows that failed: said on stderr, written to a file, and in the exit code."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparing.cli.output import hint

FAILED_ROWS = 3
"""The exit code of a command that is done, but some rows failed."""

SHOWN = 5

MaxFailuresOption = Annotated[
    str | None,
    typer.Option(
        "--max-failures",
        metavar="ROWS|SHARE",
        help="Stop when more rows fail: a number, or a share such as 5%. By default 10%, or 20 in a row.",
    ),
]
FailuresOption = Annotated[
    Path | None,
    typer.Option("--failures", metavar="FILE.csv", help="Write the rows that failed: id, model and reason."),
]


class FailedRows:
    """Is told which rows failed, and says so at the end of the command."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.count = 0

    def __call__(self, failed: Any) -> None:
        """Take the rows that failed: columns id, model and reason."""
        self.count = failed.num_rows
        for row in failed.slice(0, SHOWN).to_pylist():
            hint(f"failed: {row['id']!r}: {row['reason']}")
        if self.count > SHOWN:
            where = "" if self.path else ": --failures FILE.csv lists all"
            hint(f"... and {self.count - SHOWN:,} more{where}")
        if self.path is not None:
            import pyarrow.csv

            from sparing.storage.files import replacing

            with replacing(self.path) as draft:
                pyarrow.csv.write_csv(failed, draft)

    def finish(self, what: str) -> None:
        """End the command with its own code if rows failed.

        Args:
            what: what became of those rows.
        """
        if self.count:
            hint(f"{self.count:,} rows failed: {what}")
            raise typer.Exit(FAILED_ROWS)
