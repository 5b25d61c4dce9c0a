"""Which files of weights an ONNX file names beside itself.

The few message types of ONNX that matter here are walked field by field, since the `onnx` package is optional
and would read the weights, too. Field numbers are those of onnx.proto.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sparing.errors import InputError

_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE = 7
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_EXTERNAL = 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# Which fields of a message lead on, and to what.
_TENSOR = "tensor"
_WAYS: dict[str, dict[int, str]] = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTION: "function"},
    "graph": {_GRAPH_NODE: "node", _GRAPH_INITIALIZER: _TENSOR, _GRAPH_SPARSE: "sparse"},
    "function": {_FUNCTION_NODE: "node"},
    "node": {_NODE_ATTRIBUTE: "attribute"},
    "attribute": {
        _ATTRIBUTE_TENSOR: _TENSOR,
        _ATTRIBUTE_TENSORS: _TENSOR,
        _ATTRIBUTE_GRAPH: "graph",
        _ATTRIBUTE_GRAPHS: "graph",
        _ATTRIBUTE_SPARSE: "sparse",
        _ATTRIBUTE_SPARSES: "sparse",
    },
    "sparse": {_SPARSE_VALUES: _TENSOR, _SPARSE_INDICES: _TENSOR},
}


def weight_files(path: Path) -> list[Path]:
    """List the files of weights that an ONNX file names, each once, sorted.

    Args:
        path: the ONNX file.

    Returns:
        Paths in the folder of the ONNX file.

    Raises:
        InputError: the file is not ONNX, or names a file that is missing or outside its folder.
    """
    try:
        names = set(_locations(memoryview(path.read_bytes())))
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}: not an ONNX file, or cut short") from error
    files = []
    for name in sorted(names):
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in name:
            raise InputError(
                f"{path} takes weights from {name!r}, outside its folder: put the weights beside the model"
            )
        file = path.parent / name
        if not file.is_file():
            raise InputError(f"{path} takes weights from {name!r}, but there is no such file beside it")
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise InputError(
                f"{path} takes weights from {name!r}, a link out of its folder: "
                "put the weights beside the model"
            )
        files.append(file)
    return files


def _locations(model: memoryview) -> Iterator[str]:
    waiting = [("model", model)]
    while waiting:
        kind, message = waiting.pop()
        if kind == _TENSOR:
            for number, entry in _fields(message):
                if number == _TENSOR_EXTERNAL:
                    parts = {key: bytes(value).decode() for key, value in _fields(entry)}
                    if parts.get(_ENTRY_KEY) == "location":
                        yield parts[_ENTRY_VALUE]
            continue
        ways = _WAYS[kind]
        waiting.extend((ways[number], part) for number, part in _fields(message) if number in ways)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of a message that hold bytes, by number; others are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, form = tag >> 3, tag & 7
        if form == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field ends after its message")
            yield number, message[at : at + size]
            at += size
        elif form == 0:
            _, at = _varint(message, at)
        elif form in (1, 5):
            at += 8 if form == 1 else 4
        else:
            raise ValueError(f"a field of form {form}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
