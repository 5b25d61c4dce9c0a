"""Digests of Python functions: what tells a changed function from the one whose outputs are stored."""

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np

from sparing.data.digests import digest_values
from sparing.errors import InputError

_PLAIN = (str, bytes, bool, int, float, complex, type(None), np.ndarray, np.generic, Path)


def function_digest(function: Any, *, name: str | None = None, depends_on: Sequence[str | Path] = ()) -> str:
    """Return what a function is: its name, and a hash of its source and of the files that it depends on.

    The source is the whole file that defines the function or, in a notebook, its cell. Values that the
    function captured, has as defaults, or that `functools.partial` fixed count, too. Other modules that it
    uses do not count, nor do files that it reads, unless `depends_on` names them: the argument, or an
    attribute of the function.

    Args:
        function: a function or a class, or a `functools.partial` of one.
        name: what to call it; its module and qualified name by default.
        depends_on: files, relative to the folder of the function's own file.

    Returns:
        "callable:NAME source:HASH", the hash in 16 hexadecimal digits.

    Raises:
        InputError: the source does not tell what it is: a lambda, an object with state or a method of one, a
            function that captured one, or one whose source cannot be read; or a file that it depends on
            cannot be read.
    """
    try:
        hasher = hashlib.sha256()
        _feed(hasher, function, set())
    except _NoDigestError as error:
        raise InputError(
            f"{error}, so that its digest cannot be told from its source: say what it is with "
            'from_callable(..., digest="v1"), and change that when it changes'
        ) from None
    inner = _inner(function)
    folder = Path(inspect.getsourcefile(inner) or "").resolve().parent
    for path in (*getattr(function, "depends_on", getattr(inner, "depends_on", ())), *depends_on):
        try:
            with (folder / path).open("rb") as stream:
                hasher.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"a file that the model depends on cannot be read: {error}") from error
    return f"callable:{name or f'{inner.__module__}:{inner.__qualname__}'} source:{hasher.hexdigest()[:16]}"


def former_digest(digest: str) -> str | None:
    """Return what earlier releases, which knew a function by its name alone, called it; None for the rest."""
    name, source, _ = digest.partition(" source:")
    return name if source and name.startswith("callable:") else None


def same_model(one: str, other: str) -> bool:
    """Return whether two digests are of one model, as far as can be told: an earlier release's is a name."""
    return one == other or one == former_digest(other) or other == former_digest(one)


class _NoDigestError(Exception):
    pass


def _inner(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function)


def _feed(hasher: Any, function: Any, seen: set[int]) -> None:
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        _feed(hasher, function.func, seen)
        _feed_values(hasher, [*function.args, *sorted(function.keywords.items())], "fixes", seen)
        return
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType | type):
        raise _NoDigestError(
            f"the model is an object or a method of one ({_type_of(function)}), with its own state"
        )
    if function.__name__ == "<lambda>":
        raise _NoDigestError("the model is a lambda, one of many by that name")
    hasher.update(f"{function.__qualname__}\n".encode())
    hasher.update(_source(function))
    if isinstance(function, FunctionType):
        _feed_values(hasher, _captured(function), "captured", seen)
        defaults = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
        _feed_values(hasher, defaults, "has as a default", seen)


def _feed_values(hasher: Any, values: Sequence[Any], how: str, seen: set[int]) -> None:
    for value in values:
        if isinstance(value, _PLAIN):
            hasher.update(digest_values([value]).tobytes())
        elif isinstance(value, list | tuple | set | frozenset | dict):
            hasher.update(f"{type(value).__name__} {len(value)}".encode())
            items = list(value.items() if isinstance(value, dict) else value)
            unordered = isinstance(value, set | frozenset)
            _feed_values(hasher, sorted(items, key=repr) if unordered else items, how, seen)
        elif isinstance(value, ModuleType | BuiltinFunctionType | np.ufunc):
            hasher.update(f"{getattr(value, '__module__', '')} {value.__name__}".encode())
        elif isinstance(value, FunctionType | type | functools.partial):
            _feed(hasher, value, seen)
        else:
            raise _NoDigestError(f"the model {how} an object ({_type_of(value)}), with its own state")


def _captured(function: FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    return found


def _source(function: Callable[..., Any] | type) -> bytes:
    if isinstance(function, type) and not hasattr(sys.modules.get(function.__module__), "__file__"):
        return f"{function.__module__}.{function.__qualname__}".encode()  # built in
    try:
        file = inspect.getsourcefile(function)
        if file is not None and Path(file).is_file():
            return Path(file).read_bytes()
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        raise _NoDigestError(f"the source of {function.__qualname__} cannot be read") from None


def _type_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
