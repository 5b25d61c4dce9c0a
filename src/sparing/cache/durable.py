"""What a power cut must not lose: syncing files and folders, and files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa


def sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, known: set[Path]) -> None:
    """Flush every file below a folder that is not in `known`, then the folders that hold them."""
    changed = [path for path in files_below(folder) if path not in known]
    for path in changed:
        sync(path)
    for parent in {path.parent for path in changed}:
        sync(parent)


def files_below(folder: Path) -> set[Path]:
    """List every file below a folder, as it stands now."""
    return {Path(root) / name for root, _, names in os.walk(folder) for name in names}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under another name, then put it in place at once: readers never see half of it.

    Yields:
        The path to write to. When the block raises, it is removed and `path` stays as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_arrow(path: Path) -> pa.Table:
    """Map an Arrow file into memory."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def write_durably(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
