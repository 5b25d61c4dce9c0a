"""When a cache compacts by itself, and how; the rule is in docs/refresh.md.

Rows of a version lie in files; a round adds one, and marks the rows that it replaced as deleted in others.
Many small files and many deleted rows make reading slower. Merging whatever is small after every round would
rewrite a large cache for a few rows, so files are merged in tiers, as log-structured stores do: eight files
of similar size become one, of a higher tier. A row is rewritten at most once per tier, and a file whose rows
are mostly deleted is rewritten for fewer rows than the rounds wrote that deleted them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import lance.fragment
from lance import LanceOperation
from lance.dataset import Transaction

from sparing.cache import transactions
from sparing.cache.view import READAHEAD, View
from sparing.storage import files

FILES = 8
"""Files of one tier that are merged, and the ratio of sizes from tier to tier."""

TIERS = 6
"""Files of 8^6 (262,144) rows and more are never merged."""

DELETED = 0.5
"""A file is rewritten when more than this share of its rows is deleted."""


def due(rows: Sequence[int], deleted: Sequence[int]) -> list[list[int]]:
    """Decide which files to rewrite.

    Args:
        rows: rows of each file, deleted ones included.
        deleted: deleted rows of each file.

    Returns:
        Groups of positions; each group becomes one file.
    """
    tiers = Counter(_tier(count) for count in rows)
    full = [tier for tier, members in tiers.items() if members >= FILES and tier <= TIERS]
    merged = [at for at, count in enumerate(rows) if full and _tier(count) <= max(full)]
    alone = [
        [at]
        for at, (count, gone) in enumerate(zip(rows, deleted, strict=True))
        if gone > DELETED * count and at not in merged
    ]
    return [merged, *alone] if merged else alone


def _tier(rows: int) -> int:
    """Return the least tier whose files have fewer than FILES ** tier rows."""
    tier = 1
    while rows >= FILES**tier:
        tier += 1
    return tier


def compact_if_due(view: View) -> tuple[View, dict[str, Any] | None]:
    """Compact a version by the rule, as a new version; no version is dropped, so rollback reaches as far.

    Returns:
        The newest version, and None when nothing was due, else what was done: "files_before" and
        "files_after" of the version, and "rows" that were rewritten.

    Raises:
        CacheError: writing failed; the version in view is still the newest.
    """
    parts = view.dataset.get_fragments()
    groups = due([part.physical_rows for part in parts], [part.num_deletions for part in parts])
    if not groups:
        return view, None
    view.verify()  # what is rewritten gets a checksum of its own: damage would not be seen any more
    with transactions.writing(view.path):
        known = files.files_below(view.path)
        try:
            rewritten = [_rewrite(view, [parts[at] for at in group]) for group in groups]
            new = [part for group in rewritten for part in group.new_fragments]
            done = {
                "files_before": len(parts),
                "files_after": len(parts) - sum(map(len, groups)) + len(new),
                "rows": sum(part.physical_rows for part in new),
            }
            transaction = Transaction(view.version, LanceOperation.Rewrite(rewritten, []))
            view = view.committed(transaction, None, known)
        except BaseException:
            if view.dataset.latest_version == view.version:  # what was written belongs to no version
                for path in files.files_below(view.path) - known:
                    path.unlink(missing_ok=True)
            raise
    return view, done


def _rewrite(view: View, parts: list[Any]) -> LanceOperation.RewriteGroup:
    rows = view.dataset.scanner(fragments=parts, batch_size=view.chunk_rows, scan_in_order=True, **READAHEAD)
    new = lance.fragment.write_fragments(rows.to_reader(), view.dataset, mode="append")
    return LanceOperation.RewriteGroup([part.metadata for part in parts], new)
