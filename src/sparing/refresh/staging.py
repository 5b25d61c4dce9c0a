"""Unfinished work on disk: what a job has decided and computed so far, surviving any kill.

A folder holds `order.arrow` (which sample goes to which candidate, in the order of work), `request.json`
(the record that the work began with; its presence says that the order is complete) and one file per finished
chunk. Every file appears whole or not at all. A round's first slice lies in the round's folder, later ones in
folders inside it, by name.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Struct

from sparing.cache.known import INPUTS
from sparing.cache.transactions import writing
from sparing.errors import CacheError
from sparing.outputs import Classes, OutputKind, Outputs, read_kind
from sparing.refresh.records import FORMAT, upgraded
from sparing.storage.arrow import read_arrow, read_noted, write_arrow
from sparing.storage.files import make_folder, replacing, sync, write_text
from sparing.storage.readers import as_kind, read_json

Record = TypeVar("Record", bound=Struct)

RECORD = "request.json"
ELAPSED = "elapsed"


@dataclass(frozen=True)
class Chunk:
    """One finished chunk.

    Attributes:
        start: position of its first row in the order.
        outputs: what the models returned, one per row.
        kind: the kind of the outputs.
        seconds: measured seconds by phase ("model:NAME", "reading").
        elapsed: seconds that the whole command had taken when it was finished, restarts included.
        wasted: rows that were begun here before in vain; filled in by `Staging.add`.
        inputs: shape (rows,), digests of the samples that it was computed from, 0 where none was needed; None
            in files of releases that did not note them.
    """

    start: int
    outputs: Outputs
    kind: OutputKind
    seconds: dict[str, float]
    elapsed: float
    wasted: int = 0
    inputs: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.outputs)


class _Notes(Struct, frozen=True):
    seconds: dict[str, float]
    elapsed: float
    attempts: int = 1  # format 1 counted how often a chunk was begun
    wasted: int = 0
    kind: dict[str, Any] | None = None


class Staging:
    """The folder of one piece of unfinished work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def begun(self) -> bool:
        """Whether work is staged here."""
        return (self.folder / RECORD).exists()

    def record(self, kind: type[Record]) -> Record | None:
        """Read the record that the work began with; None when nothing is staged.

        Raises:
            CacheError: it is damaged, of another job, or written by a newer release; the message says what to
                do.
        """
        path = self.folder / RECORD
        if not self.begun:
            return None
        try:
            document = read_json(path, dict[str, Any], error=CacheError)
            found = document.pop("format", 1)
            if found == 1:
                document = upgraded(document, kind)
            elif found != FORMAT:
                raise CacheError(f"{path} is staged work of another release of Sparing (format {found})")
            return as_kind(document, kind, str(path), error=CacheError)
        except CacheError as error:
            raise CacheError(
                f"{error}; finish it with the release that staged it, or drop it: delete {self.folder}"
            ) from error

    def begin(self, record: Struct, order: pa.Table, tables: Mapping[str, pa.Table] | None = None) -> None:
        """Begin a piece of work: whatever was staged here before is dropped.

        Args:
            record: what the work is; a restart reads it back.
            order: the rows to run, in order.
            tables: what else the job needs to know; read back by name with `table`.
        """
        with writing(self.folder):
            self.clear()
            make_folder(self.folder, CacheError)
            for name, table in {"order": order, **(tables or {})}.items():
                with replacing(self.folder / f"{name}.arrow", CacheError) as draft:
                    write_arrow(draft, table)
            document = {"format": FORMAT, **msgspec.to_builtins(record)}
            write_text(self.folder / RECORD, json.dumps(document), CacheError)

    def order(self) -> pa.Table:
        """Return the rows to run, in order, mapped into memory."""
        return self.table("order")

    def table(self, name: str) -> pa.Table:
        """Return a table that the work began with, mapped into memory."""
        return read_arrow(self.folder / f"{name}.arrow", CacheError)

    def inside(self, name: str) -> "Staging":
        """Return the folder of a later slice of the same job; it goes when this one is cleared."""
        return Staging(self.folder / name)

    def names_inside(self) -> list[str]:
        """List the later slices that were begun."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{RECORD}"))

    def starting(self, start: int, rows: int, elapsed: float = 0.0) -> None:
        """Note that a chunk is being computed, so that a restart can count what it repeats.

        Args:
            start: position of its first row in the order.
            rows: how many rows it has.
            elapsed: seconds that the whole command will have taken when it is finished, as far as is known.
        """
        with writing(self.folder):
            with (self.folder / f"begun-{start:012d}").open("ab") as file:
                file.write(b"." * rows)
            self._note_elapsed(elapsed)

    def add(self, chunk: Chunk) -> None:
        """Keep a finished chunk; on the disk when this returns."""
        marker = self.folder / f"begun-{chunk.start:012d}"
        begun = marker.stat().st_size if marker.exists() else len(chunk)
        wasted = max(begun - len(chunk), 0) + self._begun_before().pop(chunk.start, 0)
        notes = _Notes(chunk.seconds, chunk.elapsed, wasted=wasted, kind=chunk.kind.spec())
        table = pa.table(chunk.kind.to_columns(chunk.outputs))
        if chunk.inputs is not None:
            table = table.append_column(INPUTS, pa.array(chunk.inputs))
        table = table.replace_schema_metadata({"chunk": json.dumps(msgspec.to_builtins(notes))})
        with writing(self.folder):
            name = f"chunk-{chunk.start:012d}-{len(chunk):06d}.arrow"
            with replacing(self.folder / name, CacheError) as draft:
                write_arrow(draft, table)
            marker.unlink(missing_ok=True)
            (self.folder / f"started-{chunk.start:012d}").unlink(missing_ok=True)
            self._note_elapsed(chunk.elapsed)

    def elapsed(self) -> float:
        """Return the seconds that the whole command has taken so far, restarts included.

        What was in the making when a process ended counts with the time that it was expected to take.
        """
        path = self.folder / ELAPSED
        try:
            return float(path.read_text("ascii"))
        except (OSError, ValueError):
            return max((chunk.elapsed for chunk in self.chunks()), default=0.0)

    def _note_elapsed(self, seconds: float) -> None:
        # Renamed, so that a kill leaves the old number or the new one; not flushed: only kills matter here.
        draft = self.folder / f"{ELAPSED}.tmp"
        draft.write_text(repr(float(seconds)), "ascii")
        draft.replace(self.folder / ELAPSED)

    def finished(self) -> list[int]:
        """List where the finished chunks start."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("chunk-*.arrow"))

    def spans(self) -> list[tuple[int, int]]:
        """List where the finished chunks start and end, in order."""
        found = []
        for path in self.folder.glob("chunk-*.arrow"):
            start, *rows = (int(part) for part in path.stem.split("-")[1:])
            # Earlier releases did not say in the name how many rows a chunk has.
            found.append((start, start + (rows[0] if rows else len(self.read(start)))))
        return sorted(found)

    def interrupted(self) -> dict[int, int]:
        """Return how many rows of chunks were begun that are not finished, by where these start."""
        done = set(self.finished())
        begun = Counter(self._begun_before())
        begun.update({int(p.name.split("-")[1]): p.stat().st_size for p in self.folder.glob("begun-*")})
        return {start: rows for start, rows in begun.items() if start not in done}

    def _begun_before(self) -> dict[int, int]:
        """Count the rows that an earlier release began in vain: it noted how often it began a whole chunk."""
        marks = list(self.folder.glob("started-*"))
        if not marks:
            return {}
        chunk_rows = read_json(self.folder / RECORD, dict[str, Any], error=CacheError)["chunk_rows"]
        total = self.order().num_rows
        starts = {int(path.name.split("-")[1]): path.stat().st_size for path in marks}
        return {start: times * min(chunk_rows, total - start) for start, times in starts.items()}

    def read(self, start: int) -> Chunk:
        """Read a finished chunk back."""
        path = self._chunk_path(start)
        table, notes = read_noted(path, "chunk", _Notes, CacheError)
        if notes.kind is None:  # format 1 knew distributions over classes only
            kind: OutputKind = Classes(table.schema.field("probs").type.list_size)
        else:
            kind = read_kind(notes.kind, str(path))
        return Chunk(
            start,
            outputs=kind.from_columns(table),
            kind=kind,
            seconds=notes.seconds,
            elapsed=notes.elapsed,
            wasted=notes.wasted + (notes.attempts - 1) * table.num_rows,
            inputs=table[INPUTS].to_numpy() if INPUTS in table.column_names else None,
        )

    def drop(self, chunk: Chunk) -> None:
        """Drop a finished chunk, so that it is computed again; what it took counts as repeated."""
        with writing(self.folder):
            (self.folder / f"begun-{chunk.start:012d}").write_bytes(b"." * (chunk.wasted + len(chunk)))
            self._chunk_path(chunk.start).unlink(missing_ok=True)

    def _chunk_path(self, start: int) -> Path:
        found = list(self.folder.glob(f"chunk-{start:012d}*.arrow"))
        return found[0] if found else self.folder / f"chunk-{start:012d}.arrow"

    def chunks(self) -> Iterator[Chunk]:
        """Read the finished chunks back, in order."""
        for start in self.finished():
            yield self.read(start)

    def rows_done(self) -> int:
        """Count the rows in finished chunks."""
        return sum(len(chunk) for chunk in self.chunks())

    def outputs(self, rows: npt.NDArray[np.int64], kind: OutputKind) -> Outputs:
        """Read the finished outputs of some rows of the order.

        Args:
            rows: shape (m,), positions in the order, each in a finished chunk.
            kind: the kind of the outputs.

        Returns:
            m outputs, in the order of the rows.
        """
        starts = np.array(self.finished(), dtype=np.int64)
        where = np.searchsorted(starts, rows, side="right") - 1
        parts, placed = [], [np.zeros(0, dtype=np.int64)]
        for index in np.unique(where):
            mine = np.flatnonzero(where == index)
            parts.append(self.read(int(starts[index])).outputs[rows[mine] - starts[index]])
            placed.append(mine)
        return kind.join(parts)[np.argsort(np.concatenate(placed))]

    def clear(self) -> None:
        """Drop everything; the record goes first, so that a half-cleared folder is no job."""
        (self.folder / RECORD).unlink(missing_ok=True)
        if self.folder.exists():
            sync(self.folder)
            shutil.rmtree(self.folder)
