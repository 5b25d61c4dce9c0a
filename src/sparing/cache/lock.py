"""One writer at a time: a lock that the kernel releases when its holder dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparing.errors import LockedError


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`.

    Raises:
        LockedError: another process holds it; the message names its process id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise LockedError(
                f"another process (pid {holder}) is writing to this cache: wait for it, or stop it; "
                f"the lock {path} frees itself when that process ends"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode("ascii"))
        yield
    finally:
        os.close(descriptor)
