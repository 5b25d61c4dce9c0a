"""Entry point of the `sparing` command: registers the verbs and turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. No error ends in a traceback, unless
SPARING_DEBUG=1 asks for it. With --json an error is one JSON object on stdout: {"error": {"type", "message",
"hint"}}. Nothing heavy is imported here, so that `sparing --help` answers at once; each verb imports what it
needs when it runs.
"""

import contextlib
import io
import sys
import warnings
from typing import Annotated

import typer

from sparing.cli import bounds, cache, evaluate, fit, offload, refresh, route, simulate
from sparing.cli.failures import INTERRUPTED, tell
from sparing.cli.listing import Listing
from sparing.cli.output import hint
from sparing.cli.terminal import json_alone

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


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    hint(f"warning: {message}")


def main() -> None:
    """Run the command line and exit with its code."""
    _keep_memory_flat()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character shows its number
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    given = sys.argv[1:]
    as_json = "--json" in given and not {"--help", "--version"} & set(given)
    with json_alone() if as_json else contextlib.nullcontext():
        try:
            # With --json, wrong usage is an error like others; else typer shows it.
            code = app(standalone_mode=not as_json)
            if code == INTERRUPTED:  # what typer makes of Ctrl-C
                raise KeyboardInterrupt
        except (SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the last resort; panics in Rust are no Exception
            code = tell(error, as_json)
    sys.exit(code or 0)
