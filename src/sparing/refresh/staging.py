"""Unfinished work on disk: what a job has decided and computed so far, surviving any kill.

A folder holds `order.arrow` (which sample goes to which candidate, in the order of work), `request.json`
(the record that the work began with; its presence says that the order is complete) and one file per finished
chunk. Every file appears whole or not at all. A round's first slice lies in the round's folder, later ones in
folders inside it, by name.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from sparing.storage.checksums import sealed
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
        seconds: measured seconds by phase ("model:NAME", "wasted:NAME" in batches that failed, "reading").
        elapsed: seconds that the whole command had taken when it was finished, restarts included.
        wasted: forwards here that were in vain, in batches that failed; `Staging.add` adds those of killed
            processes.
        reused: by model, rows that share the output of another with an identical sample, and took no forward.
        inputs: shape (rows,), digests of the samples that it was computed from, 0 where none was needed; None
            in files of releases that did not note them.
    """

    start: int
    outputs: Outputs
    kind: OutputKind
    seconds: dict[str, float]
    elapsed: float
    wasted: int = 0
    reused: dict[str, int] = field(default_factory=dict)
    inputs: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.outputs)


class Failed(Struct, frozen=True, kw_only=True):
    """Rows that failed, of one chunk or more.

    Attributes:
        rows: their positions in the order.
        reasons: why, one per row.
        wasted: forwards in vain that no chunk notes.
        seconds: measured seconds that no chunk notes, by phase as in `Chunk`.
    """

    rows: list[int]
    reasons: list[str]
    wasted: int = 0
    seconds: dict[str, float] = {}


class _Notes(Struct, frozen=True):
    seconds: dict[str, float]
    elapsed: float
    attempts: int = 1  # format 1 counted how often a chunk was begun
    wasted: int = 0
    reused: dict[str, int] = {}
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
            document = sealed({"format": FORMAT, **msgspec.to_builtins(record)})
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

    def add(self, *chunks: Chunk, failed: Failed | None = None, begun: tuple[int, int] | None = None) -> None:
        """Keep finished work; on the disk when this returns.

        Args:
            chunks: finished chunks, of rows that were begun together.
            failed: those of the rows that failed; they count as finished until `retry`.
            begun: where those rows start, and how many they are (see `starting`); by default those of the
                only chunk.
        """
        start, rows = (chunks[0].start, len(chunks[0])) if begun is None else begun
        marker = self.folder / f"begun-{start:012d}"
        wasted = max(marker.stat().st_size - rows, 0) if marker.exists() else 0
        wasted += self._begun_before().pop(start, 0)
        with writing(self.folder):
            for chunk in chunks:
                notes = _Notes(
                    chunk.seconds,
                    chunk.elapsed,
                    wasted=wasted + chunk.wasted,
                    reused=chunk.reused,
                    kind=chunk.kind.spec(),
                )
                wasted = 0
                table = pa.table(chunk.kind.to_columns(chunk.outputs))
                if chunk.inputs is not None:
                    table = table.append_column(INPUTS, pa.array(chunk.inputs))
                table = table.replace_schema_metadata({"chunk": json.dumps(msgspec.to_builtins(notes))})
                name = f"chunk-{chunk.start:012d}-{len(chunk):06d}.arrow"
                with replacing(self.folder / name, CacheError) as draft:
                    write_arrow(draft, table)
            if failed is not None:
                failed = msgspec.structs.replace(failed, wasted=failed.wasted + wasted)
                document = json.dumps(sealed(msgspec.to_builtins(failed)))
                write_text(self.folder / f"failed-{failed.rows[0]:012d}.json", document, CacheError)
            marker.unlink(missing_ok=True)
            (self.folder / f"started-{start:012d}").unlink(missing_ok=True)
            for chunk in chunks[-1:]:
                self._note_elapsed(chunk.elapsed)

    def failed(self) -> list[Failed]:
        """Read back which rows failed."""
        paths = sorted(self.folder.glob("failed-*.json"))
        return [read_json(path, Failed, error=CacheError) for path in paths]

    def failures(self, names: Sequence[str]) -> pa.Table:
        """List the rows that failed.

        Args:
            names: of the models, by the order's column `candidate`.

        Returns:
            Columns id, model and reason.
        """
        parts = self.failed()
        at = pa.array([row for part in parts for row in part.rows], pa.int64())
        order = self.order().select(["id", "candidate"]).take(at)
        models = [names[index] for index in order["candidate"].to_pylist()]
        reasons = [reason for part in parts for reason in part.reasons]
        return pa.table(
            {
                "id": order["id"],
                "model": pa.array(models, pa.string()),
                "reason": pa.array(reasons, pa.string()),
            }
        )

    def retry(self) -> None:
        """Let rows that failed be run again; what their failures took counts as wasted."""
        with writing(self.folder):
            for failed in self.failed():
                if failed.wasted:
                    with (self.folder / f"begun-{failed.rows[0]:012d}").open("ab") as file:
                        file.write(b"." * failed.wasted)
                (self.folder / f"failed-{failed.rows[0]:012d}.json").unlink()

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

    def spans(self) -> list[tuple[int, int]]:
        """List where the finished chunks start and end, in order."""
        return [(start, start + rows) for start, (_, rows) in self._chunks().items()]

    def tried(self) -> list[tuple[int, int]]:
        """List where finished work starts and ends, in order: chunks, and rows that failed."""
        failed = [(row, row + 1) for part in self.failed() for row in part.rows]
        return sorted([*self.spans(), *failed])

    def finished(self) -> list[int]:
        """List where the finished chunks start."""
        return list(self._chunks())

    def finished_rows(self, rows: int) -> npt.NDArray[np.bool_]:
        """Return which of so many rows of the order are in finished chunks."""
        done = np.zeros(rows, dtype=bool)
        for start, end in self.spans():
            done[start:end] = True
        return done

    def _chunks(self) -> dict[int, tuple[Path, int]]:
        """List the files of the finished chunks, and how many rows each has, by where they start."""
        found = {}
        for path in self.folder.glob("chunk-*.arrow"):
            start, *rows = (int(part) for part in path.stem.split("-")[1:])
            # Earlier releases did not say in the name how many rows a chunk has.
            found[start] = (
                path,
                rows[0] if rows else read_noted(path, "chunk", _Notes, CacheError)[0].num_rows,
            )
        return dict(sorted(found.items()))

    def interrupted(self) -> dict[int, int]:
        """Return how many rows of chunks were begun that are not finished, by where these start."""
        done = set(self._chunks()) | {row for part in self.failed() for row in part.rows}
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
        return self._read(start, self._chunks()[start][0])

    def _read(self, start: int, path: Path) -> Chunk:
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
            reused=notes.reused,
            wasted=notes.wasted + (notes.attempts - 1) * table.num_rows,
            inputs=table[INPUTS].to_numpy() if INPUTS in table.column_names else None,
        )

    def drop(self, chunk: Chunk) -> None:
        """Drop a finished chunk, so that it is computed again; what it took counts as repeated."""
        with writing(self.folder):
            (self.folder / f"begun-{chunk.start:012d}").write_bytes(b"." * (chunk.wasted + len(chunk)))
            self._chunks()[chunk.start][0].unlink()

    def chunks(self) -> Iterator[Chunk]:
        """Read the finished chunks back, in order."""
        for start, (path, _) in self._chunks().items():
            yield self._read(start, path)

    def rows_done(self) -> int:
        """Count the rows in finished chunks."""
        return sum(rows for _, rows in self._chunks().values())

    def outputs(self, rows: npt.NDArray[np.int64], kind: OutputKind) -> Outputs:
        """Read the finished outputs of some rows of the order.

        Args:
            rows: shape (m,), positions in the order, each in a finished chunk.
            kind: the kind of the outputs.

        Returns:
            m outputs, in the order of the rows.
        """
        found = self._chunks()
        starts = np.array(list(found), dtype=np.int64)
        where = np.searchsorted(starts, rows, side="right") - 1
        parts, placed = [], [np.zeros(0, dtype=np.int64)]
        for index in np.unique(where):
            mine = np.flatnonzero(where == index)
            start = int(starts[index])
            parts.append(self._read(start, found[start][0]).outputs[rows[mine] - start])
            placed.append(mine)
        return kind.join(parts)[np.argsort(np.concatenate(placed))]

    def clear(self) -> None:
        """Drop everything; the record goes first, so that a half-cleared folder is no job."""
        (self.folder / RECORD).unlink(missing_ok=True)
        if self.folder.exists():
            sync(self.folder)
            shutil.rmtree(self.folder)
