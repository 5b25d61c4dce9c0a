"""From what a user types, such as `name=file.onnx` or `name=package.module:function`, to a model."""

import dataclasses
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from sparing.errors import InputError, ModelError
from sparing.models.digests import function_digest
from sparing.models.model import Model, from_callable

FORMS = "file.onnx, file.parquet, package.module:function or path/to/file.py:function"


def load_model(
    spec: str,
    *,
    cost: float | None = None,
    unit: str | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    providers: list[str] | None = None,
) -> Model:
    """Load a model that is described as `name=target`.

    Args:
        spec: a name, an equals sign and the target: `file.onnx` (run by ONNX Runtime, described by a TOML
            file beside it), `file.parquet` (outputs computed elsewhere, looked up by id), or
            `package.module:function` or `path/to/file.py:function` (a callable from a list of sample values
            to shape (m, C), or a `Model`, which is renamed).
        cost: stated cost per sample, in `unit`; None for what the target says, or else measured seconds.
        unit: what `cost` counts; seconds by default. Without a cost it says nothing.
        batch_size: samples per batch; None for what the target says.
        threads: threads of ONNX Runtime; None for what the TOML says. Other targets have no use for it.
        providers: execution providers of ONNX Runtime, as `threads`.

    Returns:
        The model.

    Raises:
        ModelError: the target does not exist, cannot be loaded, or is of no known kind; or the cost or batch
            size is out of range.
        InputError: the spec is not of the form `name=target`.
    """
    name, equals, target = spec.partition("=")
    if not (equals and name.strip() and target.strip()):
        raise InputError(f"model {spec!r}: expected NAME=TARGET, where TARGET is {FORMS}")
    name, target = name.strip(), target.strip()
    given: dict[str, Any] = {
        "cost": cost,
        "unit": None if cost is None else unit,
        "batch_size": batch_size,
    }
    given = {key: value for key, value in given.items() if value is not None}
    suffix = Path(target).suffix.lower()
    try:
        if suffix == ".onnx":
            from sparing.models.onnx import load_onnx

            return load_onnx(target, name=name, threads=threads, providers=providers, **given)
        if suffix == ".parquet":
            from sparing.models.replay import load_replay

            return load_replay(target, name=name, **given)
        if ":" not in target:
            raise InputError(_unknown_target(target, suffix))
        loaded = load_callable(target)
        if isinstance(loaded, Model):
            return dataclasses.replace(loaded, name=name, **given)
        return from_callable(loaded, name=name, digest=function_digest(loaded, name=_short(target)), **given)
    except InputError as error:
        raise ModelError(f"model {name!r}: {error}") from error


def load_callable(target: str) -> Any:
    """Load what `package.module:name` or `path/to/file.py:name` points to.

    Modules are looked for where Python looks, and after that in the current folder; a file may import its
    neighbours.

    Args:
        target: the module or file, a colon, and a name in it.

    Returns:
        The callable (a function, a class, or an object that can be called, such as a `Model`).

    Raises:
        InputError: the target has another form, the module or file does not exist or raises when imported, or
            the name is missing in it or cannot be called.
    """
    where, colon, name = target.rpartition(":")
    if not (colon and where and name.isidentifier()):
        raise InputError(f"{target!r}: expected package.module:name or path/to/file.py:name")
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    if not hasattr(module, name):
        raise InputError(f"{target!r}: {getattr(module, '__file__', None) or where} has no {name!r}")
    loaded = getattr(module, name)
    if not callable(loaded):
        raise InputError(f"{target!r} is a {type(loaded).__name__}, which cannot be called")
    return loaded


def _load_module(dotted: str) -> ModuleType:
    if not all(part.isidentifier() for part in dotted.split(".")):
        raise InputError(f"{dotted!r} is neither a module name nor a path that ends in .py")
    _allow_imports_from(Path.cwd())
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if error.name and (dotted == error.name or dotted.startswith(error.name + ".")):
            raise InputError(f"no module {error.name!r} (looked in the current folder too)") from error
        raise InputError(f"importing {dotted!r} failed: {error}") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"importing {dotted!r} failed: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    path = path.resolve()
    # Two names from one file share its module, as with any import.
    key = f"_sparing_file_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    _allow_imports_from(path.parent)
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        raise InputError(f"running {path} failed: {type(error).__name__}: {error}") from error
    return module


def _allow_imports_from(folder: Path) -> None:
    # At the end, so that a user's queue.py or random.py cannot stand in for Python's own.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _short(target: str) -> str:
    """Name a callable so that it does not depend on where the command was started."""
    where, _, name = target.rpartition(":")
    return f"{Path(where).stem}:{name}" if where.endswith(".py") else target


def _unknown_target(target: str, suffix: str) -> str:
    if suffix == ".py":
        return f"{target!r} names a file; say which callable in it: {target}:NAME"
    return f"{target!r} is of no known kind; expected {FORMS}"
