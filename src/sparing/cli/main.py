"""Entry point of the `sparing` command: registers the verbs and turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Nothing heavy is imported here, so that
`sparing --help` answers at once; each verb imports what it needs when it runs.
"""

import contextlib
import sys
from typing import Annotated

import typer

from sparing.cli import bounds, cache, evaluate, fit, offload, refresh, route, simulate
from sparing.cli.listing import Listing
from sparing.errors import SparingError

_M_ARENA_MAX = -8

app = typer.Typer(
    name="sparing",
    help="Spend inference compute only where it pays.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


def _version(value: bool) -> None:
    if value:
        from sparing.version import __version__

        typer.echo(f"sparing {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Spend inference compute only where it pays."""


app.add_typer(cache.app, name="cache")
app.add_typer(offload.app, name="offload")
app.add_typer(route.app, name="route")
app.command(cls=Listing, epilog=fit.EPILOG)(fit.fit)
app.command(cls=Listing, epilog=refresh.EPILOG)(refresh.refresh)
app.command(cls=Listing, epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(cls=Listing, epilog=simulate.EPILOG)(simulate.simulate)
app.command(epilog=bounds.EPILOG)(bounds.bounds)


def _keep_memory_flat() -> None:
    """Stop glibc from keeping an arena per thread: Lance has many, and freed memory would pile up in them."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def main() -> None:
    """Run the command line and exit with its code."""
    _keep_memory_flat()
    try:
        app()
    except SparingError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        typer.echo(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
