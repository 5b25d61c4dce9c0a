"""Tables as Arrow files, read back mapped into memory."""

import zlib
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from sparing.errors import StorageError
from sparing.storage.checksums import checksum_of
from sparing.storage.files import reason
from sparing.storage.readers import parse_json

T = TypeVar("T")


_MAGIC = b"SPARCRC1"
"""What an Arrow file ends with, after its checksum; files of earlier versions end as Arrow files do."""

_checked: dict[str, tuple[int, int, int]] = {}
"""Size, time and inode of the files whose checksum this process has found right."""


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file and its checksum; inside `replacing` where it has to appear whole."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    crc = checksum_of(path).crc
    with path.open("ab") as file:
        file.write(crc.to_bytes(8, "little") + _MAGIC)


def read_arrow(path: Path, error: type[StorageError] = StorageError) -> pa.Table:
    """Map an Arrow file into memory, once its checksum is found right.

    Raises:
        StorageError: the file is missing, damaged, or something else.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(_content(path, source, error)).read_all()
    except (pa.ArrowException, OSError) as caught:
        raise error(f"{path} cannot be read, or is damaged: {reason(caught)}") from caught


def _content(path: Path, source: pa.MemoryMappedFile, error: type[StorageError]) -> pa.Buffer:
    content = source.read_buffer()
    end = len(content) - 8 - len(_MAGIC)
    if end < 0 or content[end + 8 :].to_pybytes() != _MAGIC:
        if content[-6:].to_pybytes() != b"ARROW1":  # what the version before wrote ends so
            raise error(f"{path} is damaged: its end is missing, or changed")
        return content
    found = path.stat()
    state = (found.st_size, found.st_mtime_ns, found.st_ino)
    if _checked.get(str(path)) != state:
        # Before Arrow reads it: offsets that were damaged end the process.
        if zlib.crc32(content[:end]) != int.from_bytes(content[end : end + 8].to_pybytes(), "little"):
            raise error(f"{path} is damaged: its checksum is that of another content")
        _checked[str(path)] = state
    return content[:end]


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
