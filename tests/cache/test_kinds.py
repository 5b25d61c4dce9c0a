"""A cache of a kind of output that is not a distribution: counts of things seen, of any number per sample."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing import outputs as kinds
from sparing.cache import Cache, ModelInfo, export, import_outputs
from sparing.cache.summary import summarise
from sparing.errors import CacheError, InputError
from sparing.outputs import Classes

MODEL = ModelInfo("counter", "d:counter")


@dataclass(frozen=True)
class Counts:
    """Outputs are object arrays of lists of whole numbers, each at most `most`."""

    most: int

    name: ClassVar[str] = "counts"
    version: ClassVar[int] = 1
    uncertainties: ClassVar[dict] = {}

    def spec(self):
        return {"type": self.name, "version": self.version, "most": self.most}

    @classmethod
    def from_spec(cls, spec):
        return cls(spec["most"])

    @classmethod
    def of(cls, outputs):
        return cls(max((max(one, default=0) for one in outputs), default=0))

    def check(self, values, *, what, ids=None):  # noqa: ARG002
        if any(max(one, default=0) > self.most for one in values):
            raise InputError(f"{what}: more than {self.most}")
        return values

    def matches(self, outputs):
        return all(max(one, default=0) <= self.most for one in outputs)

    def join(self, parts):
        joined = np.empty(sum(map(len, parts)), object)
        joined[:] = [one for part in parts for one in part]
        return joined

    def to_columns(self, outputs):
        return {"seen": pa.array(list(outputs), pa.list_(pa.int32()))}

    def from_columns(self, table):
        return self.join([table["seen"].to_pylist()])

    def correct(self, outputs, labels):
        return np.array([len(one) == label for one, label in zip(outputs, labels, strict=True)], bool)


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", {"classes": Classes, "counts": Counts})
    return Counts(9)


def some(kind, *lists):
    return kind.join([lists])


def test_another_kind_goes_through_the_cache_exactly(tmp_path, counts):
    chunk = (pa.array(["a", "b", "c"]), some(counts, [1, 2], [], [9]), np.array([2, 1, -1]))
    cache = Cache.create(tmp_path / "c.lance", [chunk], MODEL, kind=counts)
    cache.append([(pa.array(["d"]), some(counts, [3, 3, 3]), np.array([3]))], MODEL)
    cache = Cache.open(cache.path)
    assert (cache.kind, cache.metadata.encoding) == (counts, "exact")
    rows = cache.get(["a", "b", "c", "d"])
    assert rows.outputs.tolist() == [[1, 2], [], [9], [3, 3, 3]]
    assert rows.labels.tolist() == [2, 1, -1, 3]
    assert [one for part in cache.scan(2) for one in part.outputs] == [[1, 2], [], [9], [3, 3, 3]]
    summary = summarise(cache)
    assert (summary["kind"], summary["classes"], summary["encoding"]) == ("counts", None, "exact")
    assert (summary["labelled"], summary["accuracy"]) == (3, 2 / 3)
    assert summary["row_bytes"]["nominal"] is None
    assert 0 < summary["row_bytes"]["probs"] < summary["row_bytes"]["row"]
    with pytest.raises(InputError, match="outputs: more than 9"):
        cache.append([(pa.array(["e"]), some(counts, [10]), None)], MODEL)
    with pytest.raises(InputError, match="outputs of kind 'counts' are stored as they are, not as 'int4'"):
        cache.convert("int4")
    with pytest.raises(CacheError, match="outputs of kind 'counts', not distributions"):
        cache.metadata.n_classes  # noqa: B018


def test_what_was_exported_is_imported(tmp_path, counts):
    chunk = (pa.array([7, 3]), some(counts, [1], [2, 3]), None)
    cache = Cache.create(tmp_path / "c.lance", [chunk], MODEL, kind=counts)
    assert export(cache, tmp_path / "c.parquet") == 2
    assert pq.read_table(tmp_path / "c.parquet").column("seen").to_pylist() == [[2, 3], [1]]
    again = import_outputs(tmp_path / "d.lance", tmp_path / "c.parquet", "counter", kind=counts)
    assert again.get([7, 3]).outputs.tolist() == [[2, 3], [1]]
    with pytest.raises(InputError, match="no column 'probs'"):
        import_outputs(tmp_path / "e.lance", tmp_path / "c.parquet", "counter")
    with pytest.raises(InputError, match="more than 2"):
        import_outputs(tmp_path / "e.lance", tmp_path / "c.parquet", "counter", kind=Counts(2))


def test_a_release_without_the_kind_says_so(tmp_path, counts, monkeypatch):
    chunk = (pa.array([1]), some(counts, [1]), None)
    cache = Cache.create(tmp_path / "c.lance", [chunk], MODEL, kind=counts)
    monkeypatch.setattr(kinds, "KINDS", {"classes": Classes})
    with pytest.raises(
        CacheError, match="outputs of kind 'counts', version 1, which this release does not read"
    ):
        Cache.open(cache.path)
