import numpy as np

from sparing.refresh.learned.label_model import LabelModel


def test_it_predicts_rows_left_and_held_out(update, encoder):
    rows = encoder.encode(update.known)
    new = np.where(update.category < 3, (update.old + 1) % 6, update.old)
    some, others = np.arange(500), np.arange(500, len(new))
    model = LabelModel(encoder.widths, 6)
    assert not model.ready
    model.fit(rows.take(some), new[some])
    assert model.ready
    left = model.guess(rows.take(others))
    assert (left.label == new[others]).mean() > 0.9 > (update.old == new).mean()
    same = left.label == update.old[others]
    np.testing.assert_allclose(left.top[same], left.kept[same], rtol=1e-6)
    assert (left.top[~same] >= left.kept[~same]).all()
    assert (model.held_out(rows.take(some)).label == new[some]).mean() > 0.85


def test_held_out_predictions_do_not_know_the_answer(update, encoder):
    rows = encoder.encode(update.known).take(np.arange(300))
    chance = np.random.default_rng(1).integers(0, 6, 300)
    model = LabelModel(encoder.widths, 6)
    model.fit(rows, chance)
    assert (model.held_out(rows).label == chance).mean() < 0.3


def test_too_few_rows_predict_nothing(update, encoder):
    model = LabelModel(encoder.widths, 6)
    model.fit(encoder.encode(update.known).take(np.arange(30)), update.old[:30])
    assert not model.ready
