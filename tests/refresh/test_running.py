import numpy as np
import pyarrow as pa
import pytest

from sparing.data.samples import open_samples
from sparing.errors import InputError, ModelError
from sparing.models import Model
from sparing.outputs import Classes, chunks
from sparing.refresh import running
from sparing.refresh.records import SliceRecord
from sparing.refresh.running import chunk_rows_for, find_samples, run_order
from sparing.refresh.staging import Staging

IDS = [f"s{i:02d}" for i in range(40)]
CANDIDATE = np.random.default_rng(1).integers(0, 2, 40).astype(np.int16)
ORDER = pa.table({"id": IDS, "candidate": CANDIDATE})
OUTPUTS = np.random.default_rng(0).dirichlet(np.ones(3), (2, 40)).astype(np.float32)


def models(seen=None, fail_at=None, batch_size=4):
    def function(number):
        def look_up(ids, _):
            if fail_at in ids:
                raise SystemExit("told to fail")
            if seen is not None:
                seen.extend(ids)
            return OUTPUTS[number][[IDS.index(name) for name in ids]]

        return look_up

    return [Model(f"m{n}", f"d:{n}", function(n), batch_size=batch_size, needs_samples=False) for n in (0, 1)]


@pytest.fixture
def stage(tmp_path):
    stage = Staging(tmp_path / "work")
    stage.begin(SliceRecord(chunk_rows=8), ORDER)
    return stage


def test_every_row_goes_to_its_model_and_back_to_its_place(stage):
    assert run_order(stage, models(), None, chunk_rows=8)
    found = stage.outputs(np.arange(40), Classes(3))
    np.testing.assert_allclose(found, OUTPUTS[CANDIDATE, np.arange(40)], atol=1e-6)
    assert stage.finished() == [0, 8, 16, 24, 32]


def test_what_is_finished_is_not_run_again(stage):
    seen = []
    with pytest.raises(ModelError, match="told to fail"):
        run_order(stage, models(seen, fail_at="s20"), None, chunk_rows=8)
    assert stage.finished() == [0, 8]
    seen.clear()
    assert run_order(stage, models(seen), None, chunk_rows=8)
    assert sorted(seen) == IDS[16:]
    seen.clear()
    assert run_order(stage, models(seen), None, chunk_rows=8)
    assert seen == []
    assert stage.read(16).wasted == 8


class Clock:
    """Time passes only while a model runs."""

    def __init__(self, monkeypatch, seconds):
        self.now = 0.0
        self.seconds = seconds
        monkeypatch.setattr(running, "monotonic", lambda: self.now)

    def slow(self, model):
        def function(ids, values):
            self.now += self.seconds * len(ids)
            return inner(ids, values)

        inner, model.function = model.function, function
        return model


@pytest.mark.parametrize("deadline", [0.5, 2.5, 10, 30, 39.9, 100])
def test_a_deadline_is_kept_to_the_forward(stage, monkeypatch, deadline):
    clock = Clock(monkeypatch, 1.0)
    complete = run_order(stage, [clock.slow(m) for m in models()], None, chunk_rows=8, deadline=deadline)
    assert complete == (deadline >= 40)
    assert clock.now == max(min(int(deadline), 40), 1)  # how long a forward takes is learned from the first
    assert stage.rows_done() == clock.now
    assert stage.interrupted() == {}


def one(recorder):
    return pa.table({"id": IDS, "candidate": np.zeros(40, np.int16)}), models(recorder)[:1]


def test_chunks_of_a_slow_model_are_small(stage, monkeypatch):
    clock = Clock(monkeypatch, 0.5)
    order, alone = one([])
    stage.begin(SliceRecord(chunk_rows=16), order)
    alone[0].batch_size = 2
    assert run_order(stage, [clock.slow(alone[0])], None, chunk_rows=16)
    lengths = [end - start for start, end in stage.spans()]
    assert lengths[0] == 2
    assert set(lengths[1:]) == {2, 4}  # two seconds each, cut at multiples of 16
    np.testing.assert_array_equal(np.sort([end for _, end in stage.spans()])[-1], 40)


def test_a_resumed_order_fills_the_gaps(stage):
    seen = []
    order, alone = one(seen)
    stage.begin(SliceRecord(chunk_rows=16), order)
    run_order(stage, alone, None, chunk_rows=16)
    whole = stage.outputs(np.arange(40), Classes(3))
    for start, _ in stage.spans()[1:-1]:
        stage.drop(stage.read(start))
    seen.clear()
    run_order(stage, alone, None, chunk_rows=16)
    assert 0 < len(seen) < 40
    np.testing.assert_array_equal(stage.outputs(np.arange(40), Classes(3)), whole)


def test_progress_counts_what_earlier_runs_did(stage):
    with pytest.raises(ModelError):
        run_order(stage, models(fail_at="s20"), None, chunk_rows=8)
    steps = []
    run_order(stage, models(), None, chunk_rows=8, on_progress=steps.append)
    assert [(step.done, step.total) for step in steps] == [(24, 40), (32, 40), (40, 40)]
    assert steps[-1].left == 0


def test_an_engine_may_finish_chunks_in_any_order(stage):
    class Backwards:
        name = "backwards"

        def map(self, task, chunks):
            return iter([task(chunk) for chunk in reversed(list(chunks))])

    assert run_order(stage, models(), None, chunk_rows=8, engine=Backwards())
    found = stage.outputs(np.arange(40), Classes(3))
    np.testing.assert_allclose(found, OUTPUTS[CANDIDATE, np.arange(40)], atol=1e-6)


def test_outputs_of_other_dimensions_are_refused(stage):
    with pytest.raises(InputError, match=r"'m[01]': 3 classes, where 4 are expected"):
        run_order(stage, models(), None, chunk_rows=8, kind=Classes(4))
    assert stage.finished() == []


def test_samples_are_looked_up_before_anything_runs():
    needing = [Model("m0", "d", lambda ids, values: None), models()[1]]
    order = pa.table({"id": ["a", "b", "c"], "candidate": np.array([0, 1, 0], np.int16)})
    with pytest.raises(InputError, match="'m0' needs the samples"):
        find_samples(order, needing, None)
    assert find_samples(order, models(), None) is None
    found = find_samples(order, needing, open_samples({"c": 1, "a": 2}))  # b goes to a model that looks up
    assert found.tolist() == [1, -1, 0]
    with pytest.raises(InputError, match="1 of the 3 rows to run are not among the samples, for example 'c'"):
        find_samples(order, needing, open_samples({"a": 2}))
    with pytest.raises(InputError, match="ids of type"):
        find_samples(order, needing, open_samples({1: 2}))


@pytest.mark.parametrize(
    ("total", "batch", "rows"),
    [(0, 64, 128), (100, 64, 128), (100, 100, 200), (50_000, 64, 512), (10**7, 1000, 9000)],
)
def test_chunks_are_whole_batches(total, batch, rows):
    assert chunk_rows_for(total, models(batch_size=batch)) == rows


def test_chunks_become_smaller_once_the_width_of_a_row_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 3 * 9)  # 9 rows of 3 classes, so 2 batches of 4
    stage = Staging(tmp_path / "work")
    one = ORDER.set_column(1, "candidate", pa.array(np.zeros(40, dtype=np.int16)))
    stage.begin(SliceRecord(chunk_rows=40), one)
    assert run_order(stage, models(), None, chunk_rows=40)
    assert stage.finished() == [0, 4, 12, 20, 28, 36]
    np.testing.assert_allclose(stage.outputs(np.arange(40), Classes(3)), OUTPUTS[0], atol=1e-6)
