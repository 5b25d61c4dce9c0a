import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from sparing import outputs as kinds
from sparing.errors import CacheError
from sparing.outputs import Classes
from sparing.refresh.records import FitRecord, RoundRecord, SliceRecord, Totals
from sparing.refresh.staging import Chunk, Staging
from sparing.storage.arrow import write_arrow

RECORD = RoundRecord(
    chunk_rows=4,
    command="c",
    digest="d",
    what="new under 50%",
    models={"new": "d:new"},
    scorer="entropy",
    target="new",
    seed=3,
    totals=Totals(10, 9, 8, 7),
    rows_scored=10,
    seconds={"scoring": 0.5},
)
ORDER = pa.table({"id": [f"s{i}" for i in range(10)], "candidate": np.zeros(10, np.int16)})
PROBS = np.random.default_rng(0).dirichlet(np.ones(3), 10).astype(np.float32)


@pytest.fixture
def begun(tmp_path):
    stage = Staging(tmp_path / "round")
    stage.begin(RECORD, ORDER, {"screened": pa.table({"row": [1, 2]})})
    return stage


def chunk(start, stop, **options):
    return Chunk(start, PROBS[start:stop], Classes(3), seconds={"model:new": 0.1}, elapsed=1.5, **options)


def test_a_record_comes_back_as_it_was(begun):
    again = Staging(begun.folder)
    assert again.begun
    assert again.record(RoundRecord) == RECORD
    assert again.order().equals(ORDER)
    assert again.table("screened")["row"].to_pylist() == [1, 2]
    assert not again.inside("voting").begun
    assert again.inside("voting").record(SliceRecord) is None


def test_outputs_come_back_in_any_order_to_the_bit(begun):
    for start, stop in ((8, 10), (0, 4), (4, 8)):
        begun.add(chunk(start, stop))
    assert begun.finished() == [0, 4, 8]
    assert begun.rows_done() == 10
    rows = np.array([9, 0, 5, 4, 5])
    np.testing.assert_array_equal(begun.outputs(rows, Classes(3)), PROBS[rows])
    assert begun.outputs(rows[:0], Classes(3)).shape == (0, 3)
    first = begun.read(0)
    assert (first.kind, first.seconds, first.elapsed, first.wasted) == (
        Classes(3),
        {"model:new": 0.1},
        1.5,
        0,
    )


def test_rows_that_were_begun_in_vain_are_counted(begun):
    for rows in (4, 2, 4):
        begun.starting(4, rows)
    begun.starting(0, 3)
    assert begun.interrupted() == {4: 10, 0: 3}
    begun.add(chunk(4, 8))
    assert begun.interrupted() == {0: 3}
    assert begun.read(4).wasted == 6
    begun.drop(begun.read(4))
    assert begun.interrupted() == {4: 10, 0: 3}


def test_what_an_earlier_release_began_counts_by_whole_chunks(begun):
    (begun.folder / "started-000000000004").write_bytes(b"...")
    (begun.folder / "started-000000000008").write_bytes(b".")
    assert begun.interrupted() == {4: 12, 8: 2}  # chunks of 4, of 10 rows
    begun.starting(4, 4)
    begun.add(chunk(4, 8))
    assert (begun.read(4).wasted, begun.interrupted()) == (12, {8: 2})


def test_chunks_of_an_earlier_release_have_no_length_in_their_name(begun):
    begun.add(chunk(4, 8))
    (begun.folder / "chunk-000000000004-000004.arrow").rename(begun.folder / "chunk-000000000004.arrow")
    begun.add(chunk(0, 1))
    assert begun.spans() == [(0, 1), (4, 8)]
    np.testing.assert_array_equal(begun.outputs(np.array([5, 0]), Classes(3)), PROBS[[5, 0]])


def test_time_that_was_spent_survives_a_kill(begun):
    assert begun.elapsed() == 0
    begun.starting(0, 4, 7.5)  # expected to be done at 7.5 s: a kill may have come just before
    assert begun.elapsed() == 7.5
    begun.add(chunk(0, 4))
    assert begun.elapsed() == 1.5
    (begun.folder / "elapsed").write_text("")  # as a power cut may leave it
    assert begun.elapsed() == 1.5


def test_to_begin_again_drops_everything(begun):
    begun.add(chunk(0, 4))
    begun.inside("voting").begin(SliceRecord(chunk_rows=2), ORDER)
    assert begun.names_inside() == ["voting"]
    begun.begin(RECORD, ORDER)
    assert (begun.finished(), begun.names_inside()) == ([], [])
    begun.clear()
    assert not begun.begun
    assert not begun.folder.exists()


def rewrite(stage, **changes):
    path = stage.folder / "request.json"
    document = {**json.loads(path.read_text()), **changes}
    del document["checksum"]  # edited, not damaged
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": 3},
            r"another release of Sparing \(format 3\).*finish it with the release that staged it",
        ),
        ({"seed": "seven"}, "seed.*drop it: delete .*round"),
        ({"totals": {"rows": 1}, "chunk_rows": None}, "chunk_rows"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(begun, changes, message):
    rewrite(begun, **changes)
    with pytest.raises(CacheError, match=message):
        begun.record(RoundRecord)


def test_another_jobs_record_is_not_taken_for_ones_own(begun):
    with pytest.raises(CacheError, match="drop it: delete"):
        begun.record(FitRecord)


def test_a_round_that_the_version_before_staged(begun):
    document = {
        **{name: getattr(RECORD, name) for name in ("chunk_rows", "command", "digest", "what", "models")},
        **{name: getattr(RECORD, name) for name in ("scorer", "target", "seed")},
        "budget": ["50", "share"],
        "only_positive": False,
        "correction": None,
        "totals": {"rows": 10, "competing": 9, "labelled": 8, "right": 7},
        "account": {"rows_scored": 10, "seconds": {"scoring": 0.5}, "forwards": {}, "bytes_written": 0},
    }
    (begun.folder / "request.json").write_text(json.dumps(document))
    assert begun.record(RoundRecord) == RECORD
    # Its chunks did not name their kind.
    column = pa.FixedSizeListArray.from_arrays(pa.array(PROBS[:4].ravel()), 3)
    notes = {"seconds": {}, "elapsed": 1.0, "attempts": 1}
    table = pa.table({"probs": column}).replace_schema_metadata({"chunk": json.dumps(notes)})
    write_arrow(begun.folder / "chunk-000000000000.arrow", table)
    np.testing.assert_array_equal(begun.read(0).outputs, PROBS[:4])
    assert begun.read(0).kind == Classes(3)


@dataclass(frozen=True)
class Words:
    """Outputs are object arrays of words of any length."""

    name: ClassVar[str] = "words"
    version: ClassVar[int] = 1

    def spec(self):
        return {"type": self.name, "version": self.version}

    @classmethod
    def from_spec(cls, _spec):
        return cls()

    def join(self, parts):
        return np.array([word for part in parts for word in part], dtype=object)

    def to_columns(self, outputs):
        return {"word": pa.array(list(outputs), pa.string())}

    def from_columns(self, table):
        return self.join([table["word"].to_pylist()])


def test_another_kind_of_output_is_staged_as_exactly(begun, monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", {"classes": Classes, "words": Words})
    words = np.array(["cat", "", "ostrich", "cat"], dtype=object)
    begun.add(Chunk(0, words, Words(), {}, 0.0))
    assert begun.read(0).kind == Words()
    assert begun.outputs(np.array([2, 0]), Words()).tolist() == ["ostrich", "cat"]
