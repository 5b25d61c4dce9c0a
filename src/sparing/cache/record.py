"""What a cache keeps beside its versions: the records of past changes, and rankers, in files written once.

A version carries the record of its own change, and names the file that holds those before it: at most
`SEGMENT` records, and the name of the file before that. So a commit writes a bounded number of bytes however
long the history is. A ranker is a file found by its digest.

The files lie in `_record`, in the cache's folder, and are named VERSION.SHA256.KIND after the version that
they were written for and what they hold. They are on the disk before that version becomes visible; when it
never does, the next commit removes them, since their version is higher than the newest.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from msgspec import Struct

from sparing.errors import CacheError
from sparing.storage import files
from sparing.storage.readers import as_kind, parse_json

SEGMENT = 16
"""Records per file."""

FOLDER = "_record"
"""The folder inside that of the cache."""


class _Segment(Struct, frozen=True):
    records: list[dict[str, Any]]
    before: str | None


@dataclass(frozen=True)
class RecordFiles:
    """The folder of these files.

    Attributes:
        folder: its path; it may be missing.
    """

    folder: Path

    def segment(self, name: str) -> tuple[list[dict[str, Any]], str | None]:
        """Read one file of records, oldest first, and the name of the file before it.

        Raises:
            CacheError: it is missing or damaged.
        """
        path = self.folder / name
        text = self._read(name).decode("utf-8")
        found = as_kind(
            parse_json(text, dict[str, Any], str(path), error=CacheError),
            _Segment,
            str(path),
            error=CacheError,
        )
        return found.records, found.before

    def add_records(
        self, records: Iterable[Mapping[str, Any]], before: str | None, version: int
    ) -> str | None:
        """Write records behind those of a file.

        Args:
            records: the records, oldest first.
            before: the file with those before them.
            version: the version that is about to be committed.

        Returns:
            The name of the file that holds the last ones.
        """
        new = list(records)
        if new and before is not None:
            held, earlier = self.segment(before)
            if len(held) < SEGMENT:
                new, before = [*held, *new], earlier
        for start in range(0, len(new), SEGMENT):
            document = {"records": new[start : start + SEGMENT], "before": before}
            before = self._write(json.dumps(document).encode("utf-8"), "json", version)
        return before

    def add_ranker(self, data: bytes, version: int) -> None:
        """Write a ranker's file, unless it is there."""
        if self._ranker(hashlib.sha256(data).hexdigest()) is None:
            self._write(data, "ranker", version)

    def ranker(self, digest: str) -> bytes:
        """Read a ranker's file.

        Args:
            digest: "sha256:" and its digest.

        Raises:
            CacheError: it is missing or damaged.
        """
        name = self._ranker(digest.removeprefix("sha256:"))
        if name is None:
            raise CacheError(f"{self.folder} has lost the ranker {digest}, which an earlier round ranked by")
        return self._read(name)

    def drop_uncommitted(self, newest: int) -> None:
        """Remove what was written for versions after the newest: their commit failed or was killed."""
        for path in self._all():
            version = path.name.partition(".")[0]
            if version.isdecimal() and int(version) > newest:
                path.unlink(missing_ok=True)

    def keep_only(self, needed: set[str]) -> None:
        """Remove the files of records that no version needs any more."""
        for path in self._all():
            if path.suffix == ".json" and path.name not in needed:
                path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        with suppress(FileNotFoundError):
            return [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        return []

    def _ranker(self, digest: str) -> str | None:
        return next((path.name for path in self._all() if path.name.endswith(f".{digest}.ranker")), None)

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CacheError(
                f"{path} cannot be read: {files.reason(error)}; rows are not affected"
            ) from error
        if hashlib.sha256(data).hexdigest() != name.split(".")[1]:
            raise CacheError(f"{path} is damaged: its content is not what was written; rows are not affected")
        return data

    def _write(self, data: bytes, kind: str, version: int) -> str:
        name = f"{version}.{hashlib.sha256(data).hexdigest()}.{kind}"
        files.make_folder(self.folder, CacheError)
        files.write_bytes(self.folder / name, data, CacheError)
        return name


class History(Sequence[dict[str, Any]]):
    """The records of a cache, oldest first; those in files are read when they are first asked for.

    Args:
        recent: the newest records.
        before: the file with those before them.
        earlier: how many those are.
        source: where that file is.
    """

    def __init__(
        self,
        recent: Iterable[dict[str, Any]] = (),
        before: str | None = None,
        earlier: int = 0,
        source: RecordFiles | None = None,
    ) -> None:
        self.recent, self.before, self.earlier, self.source = tuple(recent), before, earlier, source

    def plus(self, record: dict[str, Any]) -> "History":
        """Return the history with one more record."""
        return History((*self.recent, record), self.before, self.earlier, self.source)

    def stored(self, target: RecordFiles, version: int) -> "History":
        """Write every record that is in no file yet into files, for a version about to be committed."""
        last = target.add_records(self.recent, self.before, version)
        return History((), last, len(self), target)

    def files(self) -> Iterator[str]:
        """List the files that hold it, the newest first."""
        name = self.before
        while name is not None:
            yield name
            name = self._segment(name)[1]

    def _segment(self, name: str) -> tuple[list[dict[str, Any]], str | None]:
        if self.source is None:
            raise AssertionError("records in files have a folder")
        return self.source.segment(name)

    @cached_property
    def _all(self) -> tuple[dict[str, Any], ...]:
        parts: list[Sequence[dict[str, Any]]] = [self.recent]
        parts += [self._segment(name)[0] for name in self.files()]
        return tuple(record for part in reversed(parts) for record in part)

    def __len__(self) -> int:
        return self.earlier + len(self.recent)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[dict[str, Any]]: ...
    def __getitem__(self, at: int | slice) -> dict[str, Any] | Sequence[dict[str, Any]]:
        if isinstance(at, int) and -len(self.recent) <= at < 0:
            return self.recent[at]
        return self._all[at]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._all)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]
