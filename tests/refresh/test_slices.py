"""Rounds of several slices, and kills between any two writes of them."""

import numpy as np
import pyarrow as pa
import pytest
from tests.refresh.conftest import Recorder

from sparing.cache import Cache
from sparing.numerics.distributions import entropy
from sparing.refresh import Correction, RefreshOptions, refresh, staging
from sparing.refresh.commit import commit_round
from sparing.refresh.correction.rules import Schedule, Step
from sparing.refresh.planners import PlanOnce
from sparing.refresh.records import RoundRecord, SliceRecord
from sparing.refresh.round import prepare_round
from sparing.refresh.running import run_order
from sparing.refresh.slices import SlicePlan, purpose_of, run_slices, staged_slices, updates
from sparing.refresh.staging import Staging

CHUNK = 8
SLICES = 3


class Watching:
    """Plans three slices, each by what the ones before have returned: it would not plan them otherwise."""

    def __init__(self, round_, rows):
        self.round, self.rows = round_, rows

    def next(self, slices):
        done = updates(slices)
        if len(done) == SLICES:
            return None
        before = [name for part in done for name in part.order()["id"].to_pylist()]
        seen = np.concatenate(
            [np.zeros((1, 5)), *(chunk.outputs for part in done for chunk in part.chunks())]
        )
        left = [i for i, name in enumerate(self.rows.ids.to_pylist()) if name not in before]
        wish = self.rows.probs[left] @ np.cos(100 * seen.sum(axis=0))
        taken = np.sort(np.array(left)[np.argsort(wish)[:20]])
        order = pa.table(
            {
                "id": self.rows.ids.take(pa.array(taken)),
                "position": positions(self.round.cache, self.rows.ids.take(pa.array(taken))),
                "model": self.rows.models[taken].astype(np.int16),
                "candidate": np.zeros(20, np.int16),
                "score": entropy(self.rows.probs[taken]),
                "label": self.rows.labels[taken],
                "right": np.zeros(20, np.int8),
            }
        )
        if done:
            return SlicePlan(f"update-{len(done):04d}", SliceRecord(chunk_rows=CHUNK), order)
        first = PlanOnce(self.round, None).next({}).record
        values = {name: getattr(first, name) for name in RoundRecord.__struct_fields__}
        return SlicePlan("update", RoundRecord(**{**values, "chunk_rows": CHUNK}), order)

    def models(self, purpose):
        assert purpose == "update"
        return self.round.candidates


def positions(cache, ids):
    where = {name: i for i, name in enumerate(cache.ids().to_pylist())}
    return np.array([where[name] for name in ids.to_pylist()])


def numbered(recorder):
    """A model that needs no samples: an id says which sample it is."""
    model = recorder.model()
    function = model.function
    model.function = lambda ids, _: function(ids, [int(name[1:]) for name in ids])
    model.needs_samples = False
    return model


def carry_out(w, recorder):
    cache = Cache.open(w.path)
    round_ = prepare_round(cache, [numbered(recorder)], RefreshOptions(budget="60rows"))
    stage = Staging(cache.staged_round)
    planner = Watching(round_, cache.get(list(w.samples)))

    def run(part, models, chunk_rows):
        return run_order(part, models, None, chunk_rows=chunk_rows, kind=cache.metadata.kind)

    assert run_slices(stage, planner, run)
    report = commit_round(round_, staged_slices(stage), stage.record(RoundRecord), complete=True)
    stage.clear()
    return report


class Kill(BaseException):
    pass


@pytest.fixture
def kill_at(monkeypatch):
    """Let the n-th write of staged work be the last thing that a process does, before or after it is made."""
    real = {name: getattr(staging, name) for name in ("write_arrow", "write_text", "make_folder")}
    starting, clear = Staging.starting, Staging.clear
    state = {"left": None, "writes": 0}

    def counted(function):
        def wrapped(*arguments, **keywords):
            state["writes"] += 1
            if state["left"] is not None:
                if state["left"] == 0:
                    raise Kill
                state["left"] -= 1
            return function(*arguments, **keywords)

        return wrapped

    def arm(left):
        state.update(left=left, writes=0)
        return state

    for name, function in real.items():
        monkeypatch.setattr(staging, name, counted(function))
    monkeypatch.setattr(Staging, "starting", counted(starting))
    monkeypatch.setattr(Staging, "clear", counted(clear))
    return arm


def same(a, b):
    ours, theirs = a.stored(), b.stored()
    return all((ours[i][0] == theirs[i][0]).all() and ours[i][1:] == theirs[i][1:] for i in ours)


def test_every_slice_sees_what_those_before_have_shown(world):
    w = world(100)
    recorder = Recorder("new")
    report = carry_out(w, recorder)
    assert (report.refreshed, report.complete, report.round) == (60, True, 1)
    assert report.account["forwards"] == {"new": 60}
    assert w.ids_of("new") == set(recorder.seen)
    other = world(100, "other.lance")
    different = Recorder("different")
    carry_out(other, different)
    assert recorder.seen[:20] == different.seen[:20]
    assert recorder.seen[20:] != different.seen[20:]  # other outputs, other rows


def test_a_kill_between_any_two_writes_of_any_slice_changes_nothing(world, kill_at):
    whole = world(100, "whole.lance")
    state = kill_at(None)
    carry_out(whole, Recorder("new"))
    writes = state["writes"]
    assert writes > 30  # three slices: folder, order, record, and three chunks with their marks
    for number in range(writes):
        w = world(100, f"killed-{number}.lance")
        recorder = Recorder("new")
        kill_at(number)
        committed = False
        try:
            carry_out(w, recorder)
            committed = True
        except Kill:
            committed = Cache.open(w.path).metadata.round == 1
        kill_at(None)
        if not committed:
            assert Cache.open(w.path).version == 1
            report = carry_out(w, recorder)
            assert report.account["forwards"] == {"new": 60}
            assert len(recorder.seen) - 60 <= CHUNK
            assert len(recorder.seen) - 60 == report.account["wasted_forwards"] or (
                report.account["wasted_forwards"] == CHUNK  # marked as begun, but not run yet
            )
        assert same(w, whole)


def test_a_kill_between_any_two_writes_of_a_corrected_round_changes_nothing(world, kill_at):
    correction = Correction(schedule=Schedule(steps=(Step(0.3, 0.5, 2),)), recent=[numbered(Recorder("one"))])
    options = RefreshOptions(budget="30%", correction=correction)

    def prepared(name):
        w = world(60, name)
        refresh(w.path, [numbered(Recorder("one"))], RefreshOptions(budget="50%"))
        return w

    whole = prepared("whole.lance")
    state = kill_at(None)
    expected = refresh(whole.path, [numbered(Recorder("new"))], options)
    assert (expected.screened, expected.corrected) == (18, 9)
    writes = state["writes"]
    for number in range(writes):
        w = prepared(f"killed-{number}.lance")
        kill_at(number)
        with pytest.raises(Kill):
            refresh(w.path, [numbered(Recorder("new"))], options)
        kill_at(None)
        report = refresh(w.path, [numbered(Recorder("new"))], options)
        assert report.round == 2
        for kind in ("forwards", "screening_forwards", "voting_forwards"):
            assert report.account[kind] == expected.account[kind]
        assert same(w, whole)
        assert not staged_slices(Staging(Cache.open(w.path).staged_round))


def test_slices_are_listed_by_purpose_then_name(tmp_path):
    stage = Staging(tmp_path / "round")
    assert staged_slices(stage) == {}
    order = pa.table({"id": ["a"], "candidate": np.zeros(1, np.int16)})
    record = SliceRecord(chunk_rows=1)
    stage.begin(record, order)
    for name in ("voting", "update-0010", "screening", "update-0002"):
        stage.inside(name).begin(record, order)
    (stage.folder / "half").mkdir()  # begun, but its record is not there yet
    found = staged_slices(stage)
    assert list(found) == ["update", "update-0002", "update-0010", "screening", "voting"]
    assert len(updates(found)) == 3
    assert [purpose_of(name) for name in found] == ["update"] * 3 + ["screening", "voting"]
