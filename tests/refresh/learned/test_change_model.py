import numpy as np

from sparing.refresh.learned.change_model import ChangeModel


def test_columns_are_used_where_they_say_what_changes(update, encoder):
    rows = encoder.encode(update.known)
    changed = (update.category < 3).astype(float)
    some, others = np.arange(400), np.arange(400, len(changed))
    model = ChangeModel(encoder.widths, 6)
    model.fit(rows.take(some), changed[some], 400)
    assert model.choice.learned
    assert model.choice.loss < model.choice.plain_loss
    found = model.benefit(rows.take(others))
    assert found[changed[others] == 1].min() > found[changed[others] == 0].max() - 0.2
    assert ((found > 0.5) == (changed[others] == 1)).mean() > 0.97


def test_chance_is_ranked_by_entropy(update, encoder):
    rows = encoder.encode(update.known)
    for changed in (np.random.default_rng(0).random(400) < 0.3, np.zeros(400), np.ones(400)):
        model = ChangeModel(encoder.widths, 6)
        model.fit(rows.take(np.arange(400)), changed.astype(float), 400)
        assert not model.choice.learned
        assert model.choice.width == encoder.widths["uncertainty"]
        assert (np.argsort(model.benefit(rows)) == np.argsort(rows.entropy)).all()


def test_before_any_fit_entropy_ranks(update, encoder):
    rows = encoder.encode(update.known)
    found = ChangeModel(encoder.widths, 6).benefit(rows)
    np.testing.assert_allclose(found, rows.entropy / np.log(6))
    assert found.max() <= 1


def test_held_out_predictions_do_not_know_the_answer(update, encoder):
    rows = encoder.encode(update.known).take(np.arange(300))
    chance = (np.random.default_rng(1).random(300) < 0.5).astype(float)
    model = ChangeModel(encoder.widths, 6)
    model.fit(rows, chance, 300)
    told = ((model.held_out(rows, chance) > 0) == (chance == 1)).mean()
    assert 0.35 < told < 0.65
