"""Files and folders that appear whole or not at all, and that a power cut does not lose.

To replace a file in one step:

    write_text(path, text)                    # or write_bytes
    with replacing(path) as draft:            # anything else: write `draft`, it becomes `path` at the end
        pq.write_table(table, draft)

To make a folder in one step, `with creating(path) as draft`. To make one that is filled step by step,
`make_folder(path)`. Working files that nobody keeps go into `with scratch() as folder`. What else may meet a
full disk goes into `with writing(path)`. All of them raise `StorageError` in place of `OSError`; a package
with an error of its own passes that class as `error`. What killed processes have left of their drafts and
working files is removed by the next process that writes there.
"""

import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from sparing.errors import StorageError

_BLOCK = 1 << 20
_WINDOWS = os.name == "nt"


def local(path: str | Path) -> str:
    """Return the absolute path: libraries may read a relative one with a colon, as `run:1`, as a URI."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps ".."


@contextmanager
def writing(path: Path, error: type[StorageError] = StorageError) -> Iterator[None]:
    """Turn an `OSError` of the block into one error that names the path.

    Raises:
        StorageError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as caught:
        elsewhere = caught.filename and Path(caught.filename).parent not in (path, path.parent)
        where = f" ({caught.filename})" if elsewhere else ""
        raise error(
            f"{path} could not be written: {reason(caught)}{where}. Nothing was changed; free some space "
            "or check the permissions, then run the same command again"
        ) from caught


@contextmanager
def replacing(path: str | Path, error: type[StorageError] = StorageError) -> Iterator[Path]:
    """Write a file under another name, then put it in place in one step: readers never see half of it.

    A symbolic link is followed, and stays. A device or a pipe is written to directly.

    Yields:
        The path to write to. When the block raises, it is removed and `path` stays as it was.

    Raises:
        StorageError: the block raised an `OSError`, or the file cannot be put in place.
    """
    path = Path(path)
    with writing(path, error):
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file() and not target.is_dir():
            yield target
            return
        _clear_left(target.parent)
        draft = _aside(target)
        try:
            yield draft
            sync(draft)
            draft.replace(target)
            sync(target.parent)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def creating(path: Path, error: type[StorageError] = StorageError) -> Iterator[Path]:
    """Fill a folder under another name, then put it in place in one step; its parents are made.

    Yields:
        The path of the folder to make and fill. When the block raises, it is removed.

    Raises:
        StorageError: the block raised an `OSError`, or something is at `path` by the end of it.
    """
    with writing(path, error):
        make_folder(path.parent, error)
        _clear_left(path.parent)
        draft = _aside(path)
        try:
            yield draft
            sync_tree(draft, set())
            if path.exists():
                raise error(f"{path} was made by another process in the meantime")
            draft.rename(path)
            sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder for working files in the system's temporary folder; it is gone when the block ends."""
    parent = Path(tempfile.gettempdir())
    _clear_left(parent)
    with tempfile.TemporaryDirectory(prefix=f"sparing.{_writer()}.", dir=parent) as folder:
        yield Path(folder)


def write_text(path: str | Path, text: str, error: type[StorageError] = StorageError) -> None:
    """Write a text file as UTF-8, whole or not at all.

    Raises:
        StorageError: it could not be written; what was there before still is.
    """
    write_bytes(path, text.encode("utf-8"), error)


def write_bytes(path: str | Path, data: bytes, error: type[StorageError] = StorageError) -> None:
    """Write a file, whole or not at all.

    Raises:
        StorageError: it could not be written; what was there before still is.
    """
    with replacing(path, error) as draft:
        draft.write_bytes(data)


def make_folder(path: Path, error: type[StorageError] = StorageError) -> None:
    """Make a folder and its parents where they are missing, on the disk when this returns.

    Raises:
        StorageError: it cannot be made.
    """
    with writing(path, error):
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in new:
            sync(folder.parent)


def reserve(path: Path) -> None:
    """Give every byte of a file its place on the disk.

    A full disk then raises now; later it would end a process that writes through a memory map.

    Raises:
        OSError: the disk is full.
    """
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            return
        while block := file.read(_BLOCK):
            file.seek(-len(block), os.SEEK_CUR)
            file.write(block)


def sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    if _WINDOWS:
        if path.is_dir():  # Windows opens no folders
            return
        descriptor = os.open(path, os.O_RDWR)  # and flushes no file that is open for reading only
    else:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, known: set[Path]) -> None:
    """Flush every file below a folder that is not in `known`, then the folders up to it that hold them."""
    changed = [path for path in files_below(folder) if path not in known]
    for path in changed:
        sync(path)
    holders = {parent for path in changed for parent in path.parents if parent.is_relative_to(folder)}
    for parent in holders | {folder}:
        sync(parent)


def files_below(folder: Path) -> set[Path]:
    """List every file below a folder, as it stands now."""
    return {Path(root) / name for root, _, names in os.walk(folder) for name in names}


def reason(error: BaseException) -> str:
    """Return what an error of the system or of Lance says, without paths and places in the source."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n", 1)[0].split(", /", 1)[0]


def _aside(path: Path) -> Path:
    # Threads and forked processes share ids and seeds: the system's own random bytes tell writers apart.
    return path.with_name(f".{path.name[:40]}.{_writer()}.{secrets.token_hex(6)}.tmp")


def _writer() -> str:
    # Containers that share a folder count their processes apart: the name of the machine tells them apart.
    return f"{re.sub('[^A-Za-z0-9-]', '-', socket.gethostname())[:40]}-{os.getpid()}"


@cache
def _clear_left(folder: Path) -> None:
    """Remove what processes of this machine and user that have ended left; looked for once per folder."""
    if _WINDOWS:  # where asking whether a process is there would end it
        return
    here = re.escape(_writer().rpartition("-")[0])
    ours = re.compile(rf"(?:sparing|\..+)\.{here}-(\d{{1,9}})\.\w+(?:\.tmp)?", re.DOTALL)
    with suppress(OSError):  # tidying up fails no command
        for entry in os.scandir(folder):
            found = ours.fullmatch(entry.name)
            if not found or not _ended(found) or entry.stat(follow_symlinks=False).st_uid != os.getuid():
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def _ended(found: re.Match[str]) -> bool:
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
