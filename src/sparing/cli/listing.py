"""Help texts that list what registries hold, read when the help is shown, so that start-up stays quick."""

from collections.abc import Callable, Iterable
from typing import Any

from typer.core import TyperCommand, TyperOption


def _scorers() -> Iterable[str]:
    from sparing.refresh.scoring import refresh_scorers

    return refresh_scorers()


def _all_scorers() -> Iterable[str]:
    from sparing.refresh.scoring import SCORERS

    return SCORERS


def _methods() -> Iterable[str]:
    from sparing.evaluate.methods import METHODS

    return METHODS


LISTS: dict[str, Callable[[], Iterable[str]]] = {
    "{scorers}": _scorers,
    "{all_scorers}": _all_scorers,
    "{methods}": _methods,
}
"""By placeholder: the names that take its place in the help of an option."""


class Listing(TyperCommand):
    """A command in whose help placeholders of `LISTS` become names."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.help is not None:
                for placeholder, names in LISTS.items():
                    if placeholder in parameter.help:
                        parameter.help = parameter.help.replace(placeholder, ", ".join(names()))
        super().format_help(ctx, formatter)
