"""Tables as Arrow files, read back mapped into memory."""

from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from sparing.errors import StorageError
from sparing.storage.files import reason
from sparing.storage.readers import parse_json

T = TypeVar("T")


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file; inside `replacing` where it has to appear whole."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_arrow(path: Path, error: type[StorageError] = StorageError) -> pa.Table:
    """Map an Arrow file into memory.

    Raises:
        StorageError: the file is missing, damaged, or something else.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as caught:
        raise error(f"{path} cannot be read, or is damaged: {reason(caught)}") from caught


def read_noted(
    path: Path, key: str, kind: type[T], error: type[StorageError] = StorageError
) -> tuple[pa.Table, T]:
    """Map an Arrow file into memory, and read the JSON that its schema carries.

    Args:
        path: the file.
        key: the key of the JSON in the metadata of the schema.
        kind: its type, as for `readers.parse_json`.
        error: the error to raise.

    Raises:
        StorageError: the file is missing, damaged, or something else.
    """
    table = read_arrow(path, error)
    text = (table.schema.metadata or {}).get(key.encode())
    if text is None:
        raise error(f"{path} is damaged, or something else: its schema carries no {key!r}")
    return table, parse_json(text, kind, f"{path}, {key}", error=error)
