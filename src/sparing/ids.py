"""Sample ids: the two types they may have, a 64-bit hash, and an exact index from id to position."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.errors import InputError

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]


def as_ids(values: Any, *, what: str = "ids") -> pa.Array:
    """Bring ids to one of the two types that Sparing knows.

    Args:
        values: m ids: an Arrow array, a numpy array or a sequence, of strings or of integers.
        what: where the ids come from, for the error message.

    Returns:
        An Arrow array of `string` or `int64`, without nulls.

    Raises:
        InputError: another type, both types mixed, a missing id, or an integer beyond 64 bits.
    """
    array = values
    if not isinstance(array, pa.Array | pa.ChunkedArray):
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(f"{what}: ids must all be strings or all be integers ({error})") from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if len(array) == 0 and pa.types.is_null(kind):
        return pa.array([], pa.string())
    if array.null_count:
        raise InputError(
            f"{what}: the id is missing in row {_first(pc.is_null(array))} "
            f"({array.null_count} of {len(array)} rows)"
        )
    if pa.types.is_integer(kind):
        target = pa.int64()
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        target = pa.string()
    else:
        raise InputError(f"{what}: ids must be strings or integers, not {kind}")
    try:
        return array.cast(target)
    except pa.ArrowInvalid as error:
        raise InputError(f"{what}: {error}") from error


def hash_ids(ids: pa.Array, seed: int = 0) -> UInt64:
    """Hash ids to 64 bits (splitmix64 over 8 bytes at a time), the same on every machine.

    Args:
        ids: m ids, as from `as_ids`.
        seed: another seed gives an unrelated hash.

    Returns:
        Shape (m,), uint64.
    """
    start = _mix(np.full(1, seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64))[0]
    if pa.types.is_integer(ids.type):
        return _mix(_integers(ids) ^ start)
    m = len(ids)
    if m == 0:
        return np.zeros(0, dtype=np.uint64)
    _, offset_buffer, data_buffer = ids.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int32)[ids.offset : ids.offset + m + 1].astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    # Eight spare bytes, so that the word at the end of the last id can be read whole.
    padded = np.zeros(last - first + 8, dtype=np.uint8)
    padded[:-8] = np.frombuffer(data_buffer or b"", dtype=np.uint8)[first:last]
    words = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
    lengths = np.diff(offsets)
    hashes = _mix(lengths.astype(np.uint64) ^ start)
    for done in range(0, int(lengths.max()), 8):
        rows = np.flatnonzero(lengths > done)
        # Bytes past the end of the id belong to its neighbour: clear them.
        spare = 64 - 8 * np.minimum(lengths[rows] - done, 8)
        mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> spare.astype(np.uint64)
        hashes[rows] = _mix(hashes[rows] ^ (words[offsets[rows] - first + done] & mask))
    return hashes


class IdIndex:
    """Finds the position of an id among many; refuses duplicates when it is built.

    It holds 16 bytes per id besides the ids: their sorted 64-bit keys and the order that sorts them. Equal
    keys are settled by comparing the ids themselves, so an answer is never a guess.

    Args:
        ids: m ids, as from `as_ids`.
        what: where they come from, for the error message.

    Raises:
        InputError: an id occurs twice.
    """

    def __init__(self, ids: pa.Array, *, what: str = "ids") -> None:
        self.ids = ids
        self._what = what
        keys = _keys(ids)
        self._order: Int64 = np.argsort(keys)
        self._keys = keys[self._order]
        equal = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if len(equal):
            group = np.unique(np.concatenate([equal, equal + 1]))
            # As many as there are duplicates; a clash of hashes alone is one pair in billions.
            values = ids.take(pa.array(self._order[group])).value_counts()
            twice = pc.filter(values, pc.greater(values.field("counts"), 1))
            if len(twice):
                worst, times = twice[0]["values"].as_py(), twice[0]["counts"].as_py()
                raise InputError(
                    f"{what}: the id {worst!r} occurs {times} times; "
                    f"ids must be unique ({len(twice)} of them are not)"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, ids: pa.Array) -> Int64:
        """Find where each id is.

        Args:
            ids: k ids, as from `as_ids`.

        Returns:
            Shape (k,), positions among the indexed ids, -1 where the id is not among them.

        Raises:
            InputError: the ids are of another type than the indexed ones.
        """
        if ids.type != self.ids.type and len(ids) and len(self):
            raise InputError(
                f"{self._what}: ids here are of type {self.ids.type}, but {ids.type} was asked for; "
                "rows are matched by id, so both sides need the same type"
            )
        found = np.full(len(ids), -1, dtype=np.int64)
        if len(self) == 0 or len(ids) == 0:
            return found
        keys = _keys(ids)
        at = np.searchsorted(self._keys, keys)
        pending = np.arange(len(ids))
        while True:
            pending = pending[at[pending] < len(self)]
            pending = pending[self._keys[at[pending]] == keys[pending]]
            if len(pending) == 0:
                return found
            candidates = self._order[at[pending]]
            if pa.types.is_integer(ids.type):
                found[pending] = candidates
                return found
            same = pc.equal(self.ids.take(pa.array(candidates)), ids.take(pa.array(pending)))
            equal = same.to_numpy(zero_copy_only=False)
            found[pending[equal]] = candidates[equal]
            pending = pending[~equal]
            at[pending] += 1


class SeenIds:
    """Refuses an id that occurs twice in a stream of chunks.

    The ids seen so far are held in indexes of growing size, merged like the levels of a log-structured tree,
    so that the work per id grows with the logarithm of their number.

    Args:
        what: where the ids come from, for the error message.
    """

    def __init__(self, *, what: str = "ids") -> None:
        self._what = what
        self._runs: list[IdIndex] = []

    def add(self, ids: pa.Array) -> None:
        """Take in the ids of the next chunk.

        Raises:
            InputError: an id occurs twice in this chunk, or occurred in an earlier one.
        """
        new = IdIndex(ids, what=self._what)
        for run in self._runs:
            again = run.positions(ids) >= 0
            if again.any():
                raise InputError(
                    f"{self._what}: the id {ids[int(again.argmax())].as_py()!r} occurs more than once; "
                    "ids must be unique"
                )
        joined = [ids]
        while self._runs and len(self._runs[-1]) <= 4 * sum(map(len, joined)):
            joined.insert(0, self._runs.pop().ids)
        self._runs.append(new if len(joined) == 1 else IdIndex(pa.concat_arrays(joined), what=self._what))


def _keys(ids: pa.Array) -> UInt64:
    return _integers(ids) if pa.types.is_integer(ids.type) else hash_ids(ids)


def _integers(ids: pa.Array) -> UInt64:
    values: UInt64 = ids.to_numpy(zero_copy_only=False).view(np.uint64)
    return values


def _first(mask: pa.Array) -> int:
    return int(mask.index(True).as_py())


def _mix(values: UInt64) -> UInt64:
    """Apply the finaliser of splitmix64, which spreads every input bit over all 64."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        result: UInt64 = z ^ (z >> np.uint64(31))
        return result


def name_first(ids: pa.Array, wrong: npt.NDArray[np.bool_], describe: Callable[[int], str]) -> str:
    """Word an error about some rows: the first by its id, and how many there are.

    Args:
        ids: m ids.
        wrong: shape (m,), at least one True.
        describe: from the row's position to what is wrong with it.

    Returns:
        For example "id 'cat-7' has 9 entries (3 of 100 rows)".
    """
    first = int(wrong.argmax())
    return f"id {ids[first].as_py()!r} {describe(first)} ({int(wrong.sum())} of {len(wrong)} rows)"
