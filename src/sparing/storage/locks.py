"""One writer at a time: a lock that the system releases when its holder dies, however it dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sparing.errors import LockedError
from sparing.storage.files import make_folder, writing

_WINDOWS = os.name == "nt"


@contextmanager
def write_lock(
    path: Path, what: str = "this folder", error: type[LockedError] = LockedError
) -> Iterator[None]:
    """Hold the lock file at `path`, which is made, with its folder, and removed at the end.

    A process that the holder forks does not hold the lock, so the lock never outlives its holder.

    Args:
        path: the lock file.
        what: what the lock guards, for the message.
        error: the error to raise when another holds it.

    Raises:
        LockedError: another process holds it; the message names its process id.
        StorageError: the file cannot be made.
    """
    make_folder(path.parent)
    lock = FileLock(path, timeout=0, mode=0o644, thread_local=False, on_acquired=_sign)
    with writing(path):
        try:
            lock.acquire()
        except Timeout:
            raise error(
                f"another process (pid {_holder(path)}) is writing to {what}: wait for it, or stop it; "
                f"the lock {path} frees itself when that process ends"
            ) from None
    try:
        yield
    finally:
        # A forked process that unwinds to here holds nothing. Windows cannot remove an open file: there,
        # filelock removes it after the release.
        if lock.is_locked and not _WINDOWS:
            path.unlink(missing_ok=True)
        lock.release()


def _sign(descriptor: int) -> None:
    # The first byte stays free of the id: Windows lets nobody else read the byte that is locked.
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f" {os.getpid()}".encode("ascii"))


def _holder(path: Path) -> str:
    with suppress(OSError), path.open("rb", buffering=0) as file:
        if _WINDOWS:
            file.seek(1)
        return (file.read(32) or b"").decode("ascii", "replace").strip() or "unknown"
    return "unknown"
