"""Strict readers of TOML and JSON from outside: one type per file, and errors that say what is allowed.

A file is described by a `msgspec.Struct` (or a dataclass), which may hold others:

    class _Gate(Struct, frozen=True):
        kind: Literal["none", "entropy"] = "none"
        threshold: Annotated[float, Meta(ge=0)] | None = None

    class _File(Struct, frozen=True):
        budget: Annotated[int, Meta(ge=1)]
        gate: _Gate = _Gate()

        def __post_init__(self) -> None:
            if ...:
                raise ValueError("budget is too small for the gate")  # what one key alone cannot tell

    read = read_toml(path, _File, newest=1, version_key="version")

Keys that the type lacks are refused, and so are numbers that are NaN or infinite. `newest` is the newest
version of the file that this release reads: the number under `version_key` is checked, and then taken out.
`Meta(description=...)` words what is allowed, where the type does not say it well.

Writing: `tomli_w.dumps` or `json.dumps` of what `checksums.sealed` returns, then `files.write_text`. The
checksum that a document carries is checked.
"""

import dataclasses
import json
import math
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as shortened
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from sparing.errors import InputError, SparingError
from sparing.storage.checksums import unsealed

T = TypeVar("T")


def read_toml(
    path: str | Path,
    kind: type[T],
    *,
    newest: int | None = None,
    version_key: str = "format",
    error: type[SparingError] = InputError,
) -> T:
    """Read a TOML file.

    Args:
        path: the file.
        kind: what it holds, as a type.
        newest: the newest version that this release reads, from 1; None for files without a version.
        version_key: the key of the version.
        error: the error to raise.

    Raises:
        SparingError: of class `error`: the file cannot be read, is not TOML, has a version that this release
            does not read, an unknown key, lacks one, or a value is not allowed; it is named.
    """
    try:
        document = tomllib.loads(_text(path, error))
    except (ValueError, RecursionError) as caught:
        raise error(f"{path}: not valid TOML: {caught}") from caught
    document = unsealed(document, str(path), error)
    return as_kind(document, kind, str(path), newest=newest, version_key=version_key, error=error)


def read_json(
    path: str | Path,
    kind: type[T],
    *,
    newest: int | None = None,
    version_key: str = "format",
    error: type[SparingError] = InputError,
) -> T:
    """Read a JSON file; arguments and errors as for `read_toml`."""
    text = _text(path, error)
    return parse_json(text, kind, str(path), newest=newest, version_key=version_key, error=error)


def parse_json(
    text: str | bytes,
    kind: type[T],
    where: str,
    *,
    newest: int | None = None,
    version_key: str = "format",
    error: type[SparingError] = InputError,
) -> T:
    """Read JSON that lies inside another file, named by `where`; the rest is as for `read_toml`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as caught:
        raise error(f"{where}: not valid JSON: {caught}") from caught
    document = unsealed(document, where, error)
    return as_kind(document, kind, where, newest=newest, version_key=version_key, error=error)


def as_kind(
    document: Any,
    kind: type[T],
    where: str,
    *,
    newest: int | None = None,
    version_key: str = "format",
    error: type[SparingError] = InputError,
) -> T:
    """Turn a parsed document into its type; arguments and errors as for `parse_json`."""
    if newest is not None and isinstance(document, dict):
        document = dict(document)
        _check_version(document.pop(version_key, None), newest, version_key, where, error)
    problem = _problem(document, kind, "")
    if problem is not None:
        raise error(f"{where}: {problem}")
    return msgspec.convert(document, kind)


def _text(path: str | Path, error: type[SparingError]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as caught:
        raise error(f"{path}: not UTF-8 text: {caught}") from caught
    except OSError as caught:
        raise error(f"{path}: cannot be read: {caught.strerror or caught}") from caught


def _check_version(found: Any, newest: int, key: str, where: str, error: type[SparingError]) -> None:
    if type(found) is not int or found < 1:
        raise error(f"{where}: {key} must be a whole number from 1 to {newest}, got {shortened(found)}")
    if found > newest:
        raise error(
            f"{where} was written by a newer release of Sparing ({key} {found}, this release reads up to "
            f"{newest}): upgrade with pip install --upgrade sparing"
        )


def _problem(value: Any, kind: Any, at: str) -> str | None:
    """Find the first value that its type does not allow, the innermost first, and say what is allowed."""
    options = [option for option in _options(kind) if _holds(value, option)]
    if len(options) == 1:
        fields = _fields(options[0])
        if fields is not None:
            for key in value:
                if key not in fields:
                    allowed = ", ".join(map(repr, fields)) or "none"
                    return f"unknown key {key!r}{f' in {at}' if at else ''}; there are {allowed}"
            for key, (_, required) in fields.items():
                if required and key not in value:
                    return f"{_join(at, key)} is missing"
        for key, item, inner in _items(value, options[0], fields):
            problem = _problem(item, inner, _join(at, key))
            if problem is not None:
                return problem
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError) as caught:
        if options and _fields(options[0]) is not None:  # every key is fine: the type's own check is not
            return f"{f'{at}: ' if at else ''}{caught}"
        return f"{at or 'the whole'} must be {_allowed(kind)}, got {shortened(value)}"
    if isinstance(value, float) and not math.isfinite(value) and kind is not Any:
        return f"{at} must be {_allowed(kind)}, got {value}"
    return None


def _options(kind: Any) -> list[Any]:
    """List what a type may be: the members of a union, without their constraints."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [option for member in get_args(kind) for option in _options(member)]
    return [kind]


def _holds(value: Any, option: Any) -> bool:
    """Tell whether a value is a table or a list, as the type is."""
    if isinstance(value, dict):
        return get_origin(option) is dict or _fields(option) is not None
    return isinstance(value, list) and get_origin(option) in (list, tuple)


def _fields(kind: Any) -> dict[str, tuple[Any, bool]] | None:
    """Return the keys of a table with their types, and whether they are required; None for other types."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return {
            field.encode_name: (field.type, field.default is NODEFAULT and field.default_factory is NODEFAULT)
            for field in msgspec.structs.fields(kind)
        }
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return {
            field.name: (field.type, field.default is missing and field.default_factory is missing)
            for field in dataclasses.fields(kind)
        }
    return None


def _items(
    value: Any, option: Any, fields: dict[str, tuple[Any, bool]] | None
) -> Iterator[tuple[Any, Any, Any]]:
    """List the parts of a table or a list: key or position, value, type."""
    if fields is not None:
        yield from ((key, item, fields[key][0]) for key, item in value.items())
    elif isinstance(value, dict):
        yield from ((key, item, get_args(option)[1]) for key, item in value.items())
    elif _any_length(option):  # of a tuple with a meaning for each place, the whole is shown
        yield from ((index, item, get_args(option)[0]) for index, item in enumerate(value))


def _any_length(kind: Any) -> bool:
    return get_origin(kind) is list or get_args(kind)[-1] is ...


def _join(at: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{at}[{key}]"
    shown = key if key.replace("-", "_").isidentifier() else repr(key)
    return f"{at}.{shown}" if at else shown


_NAMES = {
    str: ("a text", "texts"),
    bool: ("true or false", "booleans"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
}


def _allowed(kind: Any, plural: bool = False) -> str:
    """Put into words what a type allows."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        meta = next((one for one in args[1:] if isinstance(one, Meta)), Meta())
        return meta.description or _allowed(args[0], plural) + _bounds(meta)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(member, plural) for member in args if member is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (list, tuple):
        number = "" if _any_length(kind) else f"{len(args)} "
        return f"{'lists' if plural else 'a list'} of {number}{_allowed(args[0], plural=True)}"
    if origin is dict or _fields(kind) is not None:
        return "tables" if plural else "a table"
    return _NAMES.get(kind, ("another value", "other values"))[plural]


def _bounds(meta: Meta) -> str:
    said = [
        f" {word} {bound}"
        for word, bound in (("from", meta.ge), ("above", meta.gt), ("up to", meta.le), ("below", meta.lt))
        if bound is not None
    ]
    if meta.min_length:
        said.append(f" with at least {meta.min_length}")
    return "".join(said)
