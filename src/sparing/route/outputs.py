"""The memo of what experts answer: log-probabilities, stored once per content and variant.

A Lance dataset with one row per key (see `sparing.route.hashing`) and one list of C float32 log-probabilities
per expert. Every append is one version, on the disk before it is visible: a kill loses what was not appended.
The experts are named in the schema, so that a memo is never read as that of others.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import lance.fragment
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.errors import InputError
from sparing.route.hashing import KEY_BYTES
from sparing.storage import checksums, files

_PROPERTY = b"sparing.outputs"
_FORMAT = 1
_READ_ROWS = 4096
_LIST = "checksums"
_FRAGMENTS = 128
"""From so many appends on, they are joined into few files."""
_KEEP = timedelta(hours=1)
"""How long a version stays after that, for whoever reads it."""

_DAMAGE = (OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Identity:
    """Whose outputs a memo holds.

    Attributes:
        names: n names of experts.
        digests: what each of them is.
        n_classes: C.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    n_classes: int

    def __str__(self) -> str:
        return describe(self.names, self.digests)


def describe(names: Sequence[str], digests: Sequence[str]) -> str:
    """Name experts and what they are, as in "small (sha256:9b21e6...), large (sha256:...)"."""
    return ", ".join(f"{name} ({short(digest)})" for name, digest in zip(names, digests, strict=True))


def short(digest: str) -> str:
    """Cut a SHA-256 short enough to read; other digests are names, and stay."""
    return f"{digest[:19]}..." if digest.startswith("sha256:") and len(digest) > 24 else digest


class Memo:
    """A memo at its newest version.

    Attributes:
        path: the folder of the Lance dataset.
        identity: whose outputs it holds.
    """

    def __init__(self, path: Path, dataset: Any, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self._dataset = dataset
        self._keys: pa.Array | None = None

    @classmethod
    def open(cls, path: Path) -> "Memo | None":
        """Open a memo; None when none was made yet.

        Raises:
            InputError: it is damaged, or no memo.
        """
        if not path.exists():
            return None
        try:
            problem = checksums.first_problem(path, path / _LIST)
            if problem is not None:
                raise ValueError(problem)
            dataset = lance.dataset(files.local(path))
            values = json.loads((dataset.schema.metadata or {})[_PROPERTY])
            if values["format"] != _FORMAT:
                raise InputError(f"{path}: format {values['format']}, this version reads {_FORMAT}")
            identity = Identity(tuple(values["names"]), tuple(values["digests"]), int(values["classes"]))
        except _DAMAGE as error:
            raise _damaged(path, error) from error
        return cls(path, dataset, identity)

    @classmethod
    def create(cls, path: Path, identity: Identity) -> "Memo":
        """Make an empty memo.

        Raises:
            StorageError: it could not be written.
        """
        values = {
            "format": _FORMAT,
            "names": identity.names,
            "digests": identity.digests,
            "classes": identity.n_classes,
        }
        lists = pa.list_(pa.float32(), identity.n_classes)
        fields = [("key", pa.binary(KEY_BYTES)), *((name, lists) for name in _columns(identity))]
        schema = pa.schema(fields, metadata={_PROPERTY: json.dumps(values).encode()})
        with files.creating(path) as draft:
            lance.write_dataset(schema.empty_table(), files.local(draft), mode="create")
            checksums.note(draft, draft / _LIST, _noted(draft))
        dataset = lance.dataset(files.local(path))
        return cls(path, dataset, identity)

    def __len__(self) -> int:
        return int(self._dataset.count_rows())

    def positions(self, keys: pa.Array) -> npt.NDArray[np.int64]:
        """Find where the outputs of keys are.

        Args:
            keys: m keys.

        Returns:
            Shape (m,), rows of this version; -1 where there are none yet.

        Raises:
            InputError: the memo is damaged.
        """
        if self._keys is None:
            try:
                self._keys = self._dataset.to_table(columns=["key"])["key"].combine_chunks()
            except _DAMAGE as error:
                raise _damaged(self.path, error) from error
        found: npt.NDArray[np.int64] = (
            pc.index_in(keys, value_set=self._keys)
            .fill_null(-1)
            .to_numpy(zero_copy_only=False)
            .astype(np.int64)
        )
        return found

    def read(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read outputs.

        Args:
            positions: shape (m,), from `positions`, none of them -1.

        Returns:
            Shape (m, n, C), log-probabilities.

        Raises:
            InputError: the memo is damaged.
        """
        columns, width = _columns(self.identity), self.identity.n_classes
        result = np.empty((len(positions), len(columns), width), dtype=np.float32)
        # Lance reads ascending rows fastest.
        order = np.argsort(positions, kind="stable")
        for start in range(0, len(order), _READ_ROWS):
            rows = order[start : start + _READ_ROWS]
            wanted, back = np.unique(positions[rows], return_inverse=True)
            try:
                table = self._dataset.take(wanted.tolist(), columns=columns)
                for expert, column in enumerate(columns):
                    values = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                    result[rows, expert] = values.reshape(len(wanted), width)[back]
            except _DAMAGE as error:
                raise _damaged(self.path, error) from error
        return result

    def append(self, keys: pa.Array, outputs: npt.NDArray[np.float32]) -> None:
        """Add outputs, as one version.

        Args:
            keys: k keys, none of which is there yet.
            outputs: shape (k, n, C), log-probabilities.

        Raises:
            StorageError: it could not be written; nothing has changed then.
        """
        lists = [
            pa.FixedSizeListArray.from_arrays(pa.array(outputs[:, expert].ravel()), self.identity.n_classes)
            for expert in range(outputs.shape[1])
        ]
        table = pa.table([keys, *lists], schema=self._dataset.schema)
        with files.writing(self.path):
            known = files.files_below(self.path)
            before = set(_noted(self.path))
            transaction = lance.fragment.write_fragments(
                table, self._dataset, return_transaction=True, mode="append"
            )
            # Lance does not sync, and a version must not become visible before its data is on the disk.
            files.sync_tree(self.path, known)
            written = files.files_below(self.path)
            self._dataset = lance.LanceDataset.commit(self._dataset, transaction, max_retries=0)
            files.sync_tree(self.path, written)
            if len(self._dataset.get_fragments()) >= _FRAGMENTS:
                self._join()
            checksums.note(self.path, self.path / _LIST, set(_noted(self.path)) - before)
        self._keys = None

    def _join(self) -> None:
        before = files.files_below(self.path)
        lance.optimize.Compaction.execute(self._dataset, {})
        self._dataset = lance.dataset(files.local(self.path))
        files.sync_tree(self.path, before)
        self._dataset.cleanup_old_versions(older_than=_KEEP)


def _noted(path: Path) -> Iterator[Path]:
    """List the files that have a checksum: Lance changes the others in place."""
    return (file for file in files.files_below(path) if file.suffix in (".lance", ".manifest", ".txn"))


def _columns(identity: Identity) -> list[str]:
    # Names of experts may hold what names of columns may not.
    return [f"expert_{number}" for number in range(len(identity.names))]


def _damaged(path: Path, error: Exception) -> InputError:
    reason = f"no {error}" if isinstance(error, KeyError) else files.reason(error)
    return InputError(
        f"{path}: damaged, or made by something else ({reason}); delete that folder and profile again: "
        "what it held is then run again"
    )
