import numpy as np
import pytest
from tests.refresh.learned.conftest import CLASSES, ROWS

from sparing.refresh.learned import learner as module
from sparing.refresh.learned.learner import Learner


def moved(update):
    return np.where(update.category < 3, (update.old + 1) % CLASSES, update.old)


def test_the_rows_that_change_come_first(play, update):
    new = moved(update)
    done = play(new)
    assert done.learner.learned
    assert sum(len(taken) for taken in done.slices) == 900
    assert not (new[done.left] != update.old[done.left]).any()
    assert done.learner.held_out is not None
    assert (
        (done.learner.held_out.logits > 0) == (done.learner.held_out.new != done.learner.held_out.cached)
    ).mean() > 0.95


@pytest.mark.parametrize("kept", [1, 5, 9])
def test_a_resumed_refresh_continues_to_the_bit(play, update, encoder, kept):
    new = moved(update)
    whole = play(new)
    resumed = play(new, staged=whole.slices[:kept])
    assert len(whole.slices) == len(resumed.slices)
    for a, b in zip(whole.slices, resumed.slices, strict=True):
        np.testing.assert_array_equal(a, b)
    left = encoder.encode(update.known).take(whole.left)
    np.testing.assert_array_equal(whole.learner.probability(left), resumed.learner.probability(left))


def test_where_nothing_can_be_learned_entropy_ranks(play, update, encoder):
    draw = np.random.default_rng(3)
    new = np.where(draw.random(ROWS) < 0.3, draw.integers(0, CLASSES, ROWS), update.old)
    done = play(new)
    assert not done.learner.blend.used
    if not done.learner.learned:
        rows = encoder.encode(update.known)
        assert (np.argsort(done.learner.benefit(rows)) == np.argsort(rows.entropy)).all()


def test_nothing_changes_or_everything(play, update):
    for new in (update.old, (update.old + 1) % CLASSES):
        done = play(new)
        assert len(done.left) == ROWS - 900


def test_of_many_rows_the_first_and_the_last_are_kept(update, encoder, monkeypatch):
    monkeypatch.setattr(module, "FIRST_KEPT", 50)
    monkeypatch.setattr(module, "LAST_KEPT", 150)
    rows, made = encoder.encode(update.known), Learner(encoder, CLASSES)
    for start in range(0, 400, 100):
        made.observe(rows.take(np.arange(start, start + 100)), update.old[start : start + 100])
    assert made.seen == 400
    expected = np.r_[0:50, 250:400]
    np.testing.assert_array_equal(made._rows.keys, update.known.keys[expected])
    np.testing.assert_array_equal(made._new, update.old[expected])


def test_the_label_model_is_left_out_where_it_would_be_too_large(encoder, monkeypatch):
    assert Learner(encoder, CLASSES).labels is not None
    monkeypatch.setattr(module, "MAX_WEIGHTS", 100)
    assert Learner(encoder, CLASSES).labels is None
