"""How distributions are stored in a cache column, and read back as valid distributions.

One class per family of encodings; `ENCODINGS` lists them. To add one, write a subclass of `Encoding` and add
it there.
"""

import re

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings.encoding import Encoded, Encoding
from sparing.cache.encodings.floats import Floats16, Floats32
from sparing.cache.encodings.levels import Levels
from sparing.cache.encodings.lists import Int4Lists, UniformLists
from sparing.cache.encodings.wide_lists import WideLists
from sparing.errors import InputError

__all__ = ["DEFAULT", "ENCODINGS", "Encoded", "Encoding", "encoded", "parse_encoding"]

ENCODINGS: tuple[type[Encoding], ...] = (Floats32, Floats16, Levels, Int4Lists, UniformLists, WideLists)
"""Every family of encodings; a name belongs to the one whose pattern it matches."""

DEFAULT = "float16"
"""The encoding of a cache when none is named."""


def parse_encoding(name: str, n_classes: int) -> Encoding:
    """Return the encoding of a name.

    Args:
        name: for example "float16" or "top8-int4"; see `ENCODINGS`.
        n_classes: C, at least 2.

    Raises:
        InputError: no encoding has this name, or not with so many classes.
    """
    for family in ENCODINGS:
        match = re.fullmatch(family.pattern, name)
        if match is not None:
            return family.parse(match, n_classes)
    forms = "; ".join(family.forms for family in ENCODINGS)
    raise InputError(f"there is no encoding {name!r}. Encodings: {forms}")


def encoded(rows: Encoded | npt.NDArray[np.float32]) -> Encoded:
    """Return rows as they are, or distributions (m, C) as rows of float32."""
    if isinstance(rows, Encoded):
        return rows
    return Encoded(Floats32("float32", rows.shape[1]), np.ascontiguousarray(rows, np.float32))
