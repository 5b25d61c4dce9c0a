"""Unfinished work on disk: what a job has decided and computed so far, surviving any kill.

A folder holds `order.arrow` (which sample goes to which candidate, in the order of work), `request.json`
(what was asked for; its presence says that the order is complete) and one file per finished chunk. Every file
appears whole or not at all.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Struct

from sparing.cache.transactions import writing
from sparing.errors import CacheError
from sparing.storage.arrow import read_arrow, read_noted, write_arrow
from sparing.storage.files import make_folder, replacing, sync, write_text
from sparing.storage.readers import read_json


@dataclass(frozen=True)
class Chunk:
    """One finished chunk.

    Attributes:
        start: position of its first row in the order.
        probs: shape (rows, C), float32.
        seconds: measured seconds by phase ("model:NAME", "reading").
        elapsed: seconds that the whole command had taken when it was finished, restarts included.
        attempts: how often it was begun; filled in by `Staging.add`.
    """

    start: int
    probs: npt.NDArray[np.float32]
    seconds: dict[str, float]
    elapsed: float
    attempts: int = 1


class _Notes(Struct, frozen=True):
    seconds: dict[str, float]
    elapsed: float
    attempts: int


class Staging:
    """The folder of one unfinished job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def request(self) -> dict[str, Any] | None:
        """Return what was asked for, or None when nothing is staged."""
        path = self.folder / "request.json"
        if not path.exists():
            return None
        try:
            return read_json(path, dict[str, Any], error=CacheError)
        except CacheError as error:
            raise CacheError(f"{error}; delete {self.folder} to start over") from error

    def begin(self, request: dict[str, Any], order: pa.Table, **tables: pa.Table) -> None:
        """Start a job: whatever was staged before is dropped.

        Args:
            request: what was asked for, as JSON values.
            order: the rows to run, in order.
            tables: what else the job needs to know; read back by name with `table`.
        """
        with writing(self.folder):
            self.clear()
            make_folder(self.folder, CacheError)
            for name, table in {"order": order, **tables}.items():
                with replacing(self.folder / f"{name}.arrow", CacheError) as draft:
                    write_arrow(draft, table)
            write_text(self.folder / "request.json", json.dumps(request), CacheError)

    def order(self) -> pa.Table:
        """Give the rows to run, in order, mapped into memory."""
        return self.table("order")

    def table(self, name: str) -> pa.Table:
        """Give a table that the job began with, mapped into memory."""
        return read_arrow(self.folder / f"{name}.arrow", CacheError)

    def inside(self, name: str) -> "Staging":
        """Give the folder of a later part of the same job; it goes when this one is cleared."""
        return Staging(self.folder / name)

    def starting(self, start: int) -> None:
        """Note that a chunk is being computed, so that a restart can count what it repeats."""
        with writing(self.folder), (self.folder / f"started-{start:012d}").open("ab") as file:
            file.write(b".")

    def add(self, chunk: Chunk) -> None:
        """Keep a finished chunk; on the disk when this returns."""
        marker = self.folder / f"started-{chunk.start:012d}"
        attempts = marker.stat().st_size if marker.exists() else 1
        notes = {"seconds": chunk.seconds, "elapsed": chunk.elapsed, "attempts": attempts}
        column = pa.FixedSizeListArray.from_arrays(pa.array(chunk.probs.ravel()), chunk.probs.shape[1])
        table = pa.table({"probs": column}).replace_schema_metadata({"chunk": json.dumps(notes)})
        with writing(self.folder):
            with replacing(self.folder / f"chunk-{chunk.start:012d}.arrow", CacheError) as draft:
                write_arrow(draft, table)
            marker.unlink(missing_ok=True)

    def finished(self) -> list[int]:
        """List where the finished chunks start."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("chunk-*.arrow"))

    def interrupted(self) -> dict[int, int]:
        """Give how often chunks were begun that are not finished, by where they start."""
        done = set(self.finished())
        begun = {int(p.name.split("-")[1]): p.stat().st_size for p in self.folder.glob("started-*")}
        return {start: attempts for start, attempts in begun.items() if start not in done}

    def read(self, start: int) -> Chunk:
        """Read a finished chunk back."""
        path = self.folder / f"chunk-{start:012d}.arrow"
        table, notes = read_noted(path, "chunk", _Notes, CacheError)
        column = table["probs"].combine_chunks()
        probs = column.flatten().to_numpy().reshape(-1, column.type.list_size)
        return Chunk(start, probs, notes.seconds, notes.elapsed, notes.attempts)

    def outputs(self, rows: npt.NDArray[np.int64], n_classes: int) -> npt.NDArray[np.float32]:
        """Read the finished distributions of some rows of the order.

        Args:
            rows: shape (m,), positions in the order, each in a finished chunk.
            n_classes: length C.

        Returns:
            Shape (m, C).
        """
        result = np.empty((len(rows), n_classes), dtype=np.float32)
        starts = np.array(self.finished(), dtype=np.int64)
        where = np.searchsorted(starts, rows, side="right") - 1
        for index in np.unique(where):
            mine = where == index
            result[mine] = self.read(int(starts[index])).probs[rows[mine] - starts[index]]
        return result

    def clear(self) -> None:
        """Drop everything; the request goes first, so that a half-cleared folder is no job."""
        (self.folder / "request.json").unlink(missing_ok=True)
        if self.folder.exists():
            sync(self.folder)
            shutil.rmtree(self.folder)
