import numpy as np
import pytest
from tests.refresh.conftest import CLASSES, Recorder, outputs_of

from sparing.cache import Cache
from sparing.errors import BudgetError, InputError
from sparing.numerics.distributions import entropy
from sparing.outputs import Classes
from sparing.refresh import Correction, RefreshOptions, fit
from sparing.refresh.round import prepare_round


def prepare(w, models, **options):
    return prepare_round(Cache.open(w.path), models, RefreshOptions(**{"budget": "50%", **options}))


def test_capacity_by_unit(world):
    w = world(100)
    one = [Recorder("a").model(cost=2.5, unit="cost")]
    two = [*one, Recorder("b").model(cost=4.0, unit="cost")]
    for models, budget, expected in (
        (one, "29%", (29, None)),
        (one, "31rows", (31, None)),
        (one, "10cost", (4, None)),
        (one, "9.99cost", (3, None)),
        (one, "7s", (100, None)),  # as many rows as the time allows
        (two, "10cost", (10.0, [2.5, 4.0])),
    ):
        assert prepare(w, models, scorer="entropy", budget=budget).capacity(100) == expected
    with pytest.raises(BudgetError, match="how long a forward of 'a' takes is not known"):
        prepare(w, two, scorer="entropy", budget="7s").capacity(100)
    # The learned scorer runs the target alone, and needs to weigh nothing.
    assert prepare(w, two, budget="7s").capacity(100) == (100, None)
    assert prepare(w, two, budget="10cost").capacity(100) == (2, None)
    assert prepare(w, two, budget="10cost", target="a").target_rows(100) == 4


def test_what_fit_spent_comes_off(world):
    w = world(100)
    a, b = Recorder("a"), Recorder("b")
    fit(w.path, [a.model(), b.model()], samples=w.samples, rows=10, epochs=1)
    models = [a.model(cost=1.0, unit="cost"), b.model(cost=3.0, unit="cost")]
    assert prepare(w, models, budget="50%").capacity(100) == (30, None)
    assert prepare(w, models, scorer="entropy", budget="100cost").capacity(100) == (60.0, [1.0, 3.0])
    assert prepare(w, models[:1], budget="5rows").capacity(100) == (0, None)


def test_of_known_rows_each_gets_the_surest_candidate(world):
    w = world(100)
    models = [Recorder("a").model(), Recorder("b").model()]
    fit(w.path, models, samples=w.samples, rows=20, epochs=1)
    round_ = prepare(w, models)
    chosen = round_.known_rows()
    assert len(chosen) == 20
    stored = round_.outputs_of(chosen.values())
    for row, (name, (candidate, _)) in zip(stored, chosen.items(), strict=True):
        left = [entropy(outputs_of(m, [w.samples[name]]))[0] for m in "ab"]
        assert candidate == int(np.argmin(left))
        np.testing.assert_allclose(row, outputs_of("ab"[candidate], [w.samples[name]])[0], atol=1e-6)


def test_a_ranker_ranks_by_default(world):
    w = world(100)
    new = [Recorder("new").model()]
    ranker = fit(w.path, new, samples=w.samples, rows=30, epochs=1)
    assert prepare(w, new).scorer.name == "learned"
    assert prepare(w, new, correction=Correction()).scorer.name == "entropy"
    assert prepare(w, new, ranker=ranker).scorer.name == "router"
    assert prepare(w, new, ranker=ranker, objective="accuracy").scorer.name == "change"
    assert prepare(w, new, ranker=ranker, scorer="margin").scorer.name == "margin"


def test_pooling_and_correction_need_distributions(world, monkeypatch):
    w = world(20)

    class Words:
        name = "words"

    for options in ({"objective": "accuracy"}, {"correction": Correction()}):
        with monkeypatch.context() as patch:
            cache = Cache.open(w.path)
            patch.setattr(type(cache.metadata), "kind", Words(), raising=False)
            patch.delitem(cache.metadata.__dict__, "kind", raising=False)
            with pytest.raises(
                InputError, match="work on distributions over classes, but the cache holds words"
            ):
                prepare_round(cache, [Recorder("new").model()], RefreshOptions(budget="50%", **options))
    assert Cache.open(w.path).metadata.kind == Classes(CLASSES)
