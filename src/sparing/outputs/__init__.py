"""Kinds of model output: what a cache may hold per sample. One module per kind; `KINDS` lists them.

To add a kind, write a class with the methods of `OutputKind` and add it to `KINDS`.
"""

from collections.abc import Mapping
from typing import Any

from sparing.errors import InputError
from sparing.outputs.classes import Classes
from sparing.outputs.kind import OutputKind, Outputs

__all__ = ["KINDS", "Classes", "OutputKind", "Outputs", "read_kind"]

KINDS: Mapping[str, type[OutputKind]] = {"classes": Classes}
"""Every kind of output, by the name that files store."""


def read_kind(spec: Mapping[str, Any], where: str) -> OutputKind:
    """Return the kind of output that a file describes.

    Args:
        spec: what `OutputKind.spec` returned: "type", "version", and the kind's own values.
        where: the file, for the error message.

    Raises:
        InputError: a kind, or a version of one, that this release does not read.
    """
    found, version = spec.get("type"), spec.get("version")
    if not isinstance(found, str) or type(version) is not int:
        raise InputError(f"{where} is damaged: a kind of output needs a type and a version, got {dict(spec)}")
    kind = KINDS.get(found)
    if kind is None or version > kind.version:
        raise InputError(
            f"{where} holds outputs of kind {found!r}, version {version}, which this release does not read: "
            "upgrade with pip install --upgrade sparing"
        )
    return kind.from_spec(spec)
