"""What commands say of a compaction that happened by itself."""

from contextlib import suppress
from pathlib import Path
from typing import Any


def compact_after(cache: Path, no_compact: bool) -> dict[str, Any] | None:
    """Compact a cache that has just changed if that is due; another writer is not waited for."""
    from sparing.cache import Cache
    from sparing.errors import LockedError

    if no_compact:
        return None
    with suppress(LockedError), Cache.open(cache).lock():
        return Cache.open(cache).compact_if_due()
    return None


def told_compaction(done: dict[str, Any]) -> str:
    """Return the line that says what was compacted."""
    if "failed" in done:
        return f"compaction failed ({done['failed']}); nothing is lost, and the next change tries it again"
    return (
        f"compacted: {done['files_before']:,} files of rows became {done['files_after']:,}, "
        f"{done['rows']:,} rows were rewritten"
    )
