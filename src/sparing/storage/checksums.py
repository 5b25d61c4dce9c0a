"""Checksums, so that a damaged file is reported as damaged instead of being read as something else.

A document (JSON or TOML that we write) carries its own, under the key `checksum`:

    write_text(path, json.dumps(sealed(document)))       # `readers` check it and take it out

A folder of files that others write (Lance) has a list of them beside it:

    note(folder, folder / "checksums", new_files)
    damaged(folder, load(folder / "checksums"), files)

CRC-32 finds every change of up to 32 neighbouring bits, at about 5 GB/s; it is no protection from people.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparing.errors import SparingError
from sparing.storage.files import sync

KEY = "checksum"
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Checksum:
    """The size of a file in bytes, and the CRC-32 of its content."""

    size: int
    crc: int


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with its checksum, as its first key."""
    return {KEY: _crc_of(document), **document}


def unsealed(document: Any, where: str, error: type[SparingError]) -> Any:
    """Check the checksum of a document that has one, and return the document without it.

    Args:
        document: what was parsed.
        where: the file, for the message.
        error: the error to raise.

    Raises:
        SparingError: of class `error`: the checksum is that of another content.
    """
    if not isinstance(document, dict) or KEY not in document:
        return document
    rest = {key: value for key, value in document.items() if key != KEY}
    if document[KEY] != _crc_of(rest):
        raise error(
            f"{where}: damaged, or edited: its checksum is that of another content. If you edited it, remove "
            f"the key {KEY!r}"
        )
    return rest


def _crc_of(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, default=str)
    return f"{zlib.crc32(json.dumps(json.loads(text), sort_keys=True).encode()):08x}"


def checksum_of(path: Path) -> Checksum:
    """Read a file and return its checksum."""
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return Checksum(size, crc)


def note(folder: Path, listed: Path, files: Iterable[Path]) -> None:
    """Add files to a list of checksums, on the disk when this returns.

    Args:
        folder: the list names files relative to it.
        listed: the list; it is made if it is not there.
        files: files below the folder.

    Raises:
        OSError: a file cannot be read, or the list cannot be written.
    """
    lines = []
    for path in sorted(files):
        found = checksum_of(path)
        text = f"{found.crc:08x} {found.size} {json.dumps(path.relative_to(folder).as_posix())}"
        lines.append(f"{zlib.crc32(text.encode()):08x} {text}\n")
    if not lines:
        return
    listed.parent.mkdir(parents=True, exist_ok=True)
    with listed.open("ab") as file:
        # Each line checks itself, so that what a kill has left of one is told from an entry.
        file.write(("\n" + "".join(lines)).encode())
        file.flush()
        os.fsync(file.fileno())
    sync(listed.parent)


def load(listed: Path) -> dict[str, Checksum]:
    """Read a list of checksums: by the file's path, relative to the folder.

    Lines that are damaged are left out. Of a file that is listed twice, the last entry counts. Without a list
    the result is empty.
    """
    found = {}
    for text in filter(None, map(_checked, _lines(listed))):
        crc, size, name = text.split(b" ", 2)
        found[json.loads(name)] = Checksum(int(size), int(crc, 16))
    return found


def unreadable_lines(listed: Path) -> int:
    """Count the lines of a list that are damaged, or were cut short by a kill."""
    return sum(_checked(line) is None for line in _lines(listed))


def _lines(listed: Path) -> list[bytes]:
    try:
        return [line for line in listed.read_bytes().splitlines() if line]
    except OSError:
        return []


def _checked(line: bytes) -> bytes | None:
    """Return an entry without its own checksum; None where that is wrong."""
    own, _, text = line.partition(b" ")
    return text if len(own) == 8 and own == f"{zlib.crc32(text):08x}".encode() else None


def keep(listed: Path, names: Iterable[str]) -> None:
    """Leave out of a list all but some files; best after files were removed."""
    from sparing.storage.files import write_text

    found, lines = load(listed), []
    for name in sorted(set(names) & set(found)):
        text = f"{found[name].crc:08x} {found[name].size} {json.dumps(name)}"
        lines.append(f"{zlib.crc32(text.encode()):08x} {text}\n")
    write_text(listed, "".join(lines))


def first_problem(folder: Path, listed: Path) -> str | None:
    """Say what is wrong with the first damaged file of a folder; None when nothing is.

    Files that are listed but gone are none of its business: whoever removed them knows.

    Args:
        folder: the list names files relative to it.
        listed: the list of checksums.
    """
    for name, wanted in load(listed).items():
        if (folder / name).exists() and (text := problem_of(folder / name, wanted)) is not None:
            return f"{name} {text}"
    return None


def problem_of(path: Path, wanted: Checksum, *, whole: bool = True) -> str | None:
    """Say what is wrong with a file; None when nothing is.

    Args:
        path: the file.
        wanted: what it should be.
        whole: read it; otherwise its size alone is looked at.
    """
    try:
        size = path.stat().st_size
        if size != wanted.size:
            return f"has {size:,} bytes, not {wanted.size:,}"
        if whole and checksum_of(path).crc != wanted.crc:
            return "has another content than was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None
