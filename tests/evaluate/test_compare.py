import numpy as np
import pytest

from sparing.errors import InputError
from sparing.evaluate import evaluate
from sparing.evaluate.compare import align, store
from sparing.evaluate.scorers import rows_for
from sparing.numerics.distributions import entropy
from sparing.refresh.scoring import SCORERS, find_scorer

C, M = 6, 1200
IDS = [f"s{i:04d}" for i in range(M)]
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, C, M)


def outputs(strength, seed, m=M, labels=LABELS):
    rng = np.random.default_rng(seed)
    logits = strength * np.eye(C)[labels] + rng.normal(size=(m, C))
    weights = np.exp(1.5 * logits)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


OLD, NEW, OTHER = outputs(1.0, 1), outputs(2.0, 2), outputs(1.2, 3)


def table(probs, labels=LABELS):
    return (IDS, probs) if labels is None else (IDS, probs, labels)


@pytest.fixture(scope="module")
def everything():
    return evaluate(table(OLD), {"new": table(NEW)}, seeds=2, others=[table(OTHER)])


def test_the_shape_of_the_result(everything):
    assert set(everything.scorers) == set(SCORERS)
    assert (everything.target, everything.rows) == ("new", M)
    assert (everything.train_rows, everything.test_rows) == (600, 600)
    for by_rate in everything.scorers.values():
        assert list(by_rate) == ["0.2", "0.5", "0.8"]
        for figures in by_rate.values():
            assert set(figures) == {
                *("accuracy", "accuracy_std", "consistency", "consistency_std"),
                *("headroom", "headroom_accuracy", "forwards"),
            }
    assert [f["forwards"] for f in everything.scorers["router"].values()] == [120, 300, 480]


def test_random_and_oracles_frame_the_rest(everything):
    for rate in ("0.2", "0.5", "0.8"):
        at = {name: by_rate[rate] for name, by_rate in everything.scorers.items()}
        assert at["random"]["headroom"] == at["random"]["headroom_accuracy"] == 0
        assert at["oracle-change"]["headroom"] == at["oracle-gain"]["headroom_accuracy"] == 1
        assert max(f["consistency"] for f in at.values()) == at["oracle-change"]["consistency"]
        assert max(f["accuracy"] for f in at.values()) == at["oracle-gain"]["accuracy"]
        assert at["dkd"] == at["entropy"]


def test_figures_by_another_route():
    # Entropy at 20 % on one split, from a plain sort.
    result = evaluate(table(OLD), {"new": table(NEW)}, scorers="entropy", seeds=1, rates=["20%"])
    test = np.sort(np.random.default_rng(0).permutation(M)[600:])
    best = test[np.argsort(-entropy(OLD)[test], kind="stable")[:120]]
    stored = OLD.argmax(axis=1)
    stored[best] = NEW.argmax(axis=1)[best]
    figures = result.scorers["entropy"]["0.2"]
    assert figures["consistency"] == pytest.approx((stored == NEW.argmax(axis=1))[test].mean())
    assert figures["accuracy"] == pytest.approx((stored == LABELS)[test].mean())


def test_skipped_rows_keep_the_cached_output():
    ids, pairs = align(table(OLD), [table(NEW)], 0)
    for name in ("mlink", "pure", "entropy"):
        scorer = find_scorer(name).fit(pairs.take(np.arange(600)), 0)
        stored = store(pairs, scorer.benefits(rows_for(scorer, pairs, 0)), ids, 0, 0)
        np.testing.assert_array_equal(stored, OLD.argmax(axis=1))


def test_only_oracles_see_answers():
    _, pairs = align(table(OLD), [table(NEW)], 0)
    seen = {name for name, scorer in SCORERS.items() if rows_for(scorer, pairs, 0).answers is not None}
    assert seen == {"oracle-change", "oracle-gain"}


def test_the_other_name_of_the_router():
    results = [
        evaluate(table(OLD), {"new": table(NEW)}, seeds=1, rates=["0.5"], scorers=f"entropy,{name}")
        for name in ("router", "pure")
    ]
    assert results[0].scorers["router"] == results[1].scorers["pure"]
    assert results[0].advice.replace("router comes", "pure comes") == results[1].advice


def test_several_candidates():
    result = evaluate(
        table(OLD), {"a": table(OTHER), "b": table(NEW)}, seeds=1, scorers="pure,change,entropy", target="a"
    )
    assert result.target == "a"
    assert all(0 < f["consistency"] <= 1 for by_rate in result.scorers.values() for f in by_rate.values())


def test_without_labels(tmp_path):
    result = evaluate(table(OLD, None), {"new": table(NEW, None)}, seeds=1, rates=["0.5"])
    assert "oracle-gain" not in result.scorers
    assert result.scorers["entropy"]["0.5"]["accuracy"] is None
    assert result.scorers["calibrated-entropy"]["0.5"]["headroom"] > 0


def test_cross_fitting_judges_every_row():
    result = evaluate(table(OLD), {"new": table(NEW)}, seeds=1, scorers="change,entropy", cross_fit=True)
    assert (result.train_rows, result.test_rows) == (600, 1200)
    assert result.scorers["entropy"]["0.5"]["forwards"] == 600


def test_rows_are_matched_by_id():
    order = np.random.default_rng(5).permutation(M)[:900]
    shuffled = (np.array(IDS)[order], NEW[order], LABELS[order])
    ids, pairs = align(table(OLD), [shuffled], 0)
    where = [IDS.index(i) for i in ids.to_pylist()]
    np.testing.assert_allclose(pairs.old, OLD[where], rtol=1e-6)
    np.testing.assert_allclose(pairs.new[0], NEW[where], rtol=1e-6)


def test_rows_outside_of_cemas_band_are_noted():
    noted = evaluate(table(OLD), {"new": table(NEW)}, scorers="cema,entropy", seeds=1, rates=["95%"])
    assert "just above its band" in noted.notes[0]


def test_a_learned_scorer_is_advised_where_it_sees_what_entropy_does_not():
    # Rows of two classes change for certain, and entropy says nothing of it.
    labels = np.arange(M) % C
    old = outputs(4.0, 7, labels=labels)
    new = old.copy()
    moved = np.isin(old.argmax(axis=1), (0, 1))
    new[moved] = np.roll(old[moved], 1, axis=1)
    result = evaluate((IDS, old), {"new": (IDS, new)}, seeds=5, scorers="entropy,change,random")
    assert result.recommended == "change"
    assert result.advice.startswith("Use change")


def test_routing_is_refused_where_nothing_ranks():
    rng = np.random.default_rng(8)
    unrelated = outputs(0.0, 9)
    flat = rng.permutation(unrelated)
    result = evaluate((IDS, OLD[rng.permutation(M)]), {"new": (IDS, flat)}, seeds=5, scorers="entropy,random")
    assert result.recommended == "random"
    assert "not appropriate" in result.advice
    same = evaluate((IDS, OLD), {"new": (IDS, OLD)}, seeds=1, scorers="entropy")
    assert same.advice.startswith("Nothing to gain")


def test_bad_requests():
    cases = [
        ("no scorer 'clever'", {"scorers": "clever"}),
        ("needs a second cached model", {"scorers": "agreement"}),
        ("target 'x' is not among", {"target": "x"}),
        ("at least one seed", {"seeds": 0}),
        ("cannot be split", {"train_rows": M}),
        ("is no rate", {"rates": ["5rows"]}),
        ("no update rate", {"rates": []}),
        ("no scorer is named", {"scorers": " , "}),
    ]
    for message, options in cases:
        with pytest.raises(InputError, match=message):
            evaluate(table(OLD), {"new": table(NEW)}, **options)
    with pytest.raises(InputError, match="share 0 ids"):
        evaluate(table(OLD), {"new": ([f"x{i}" for i in range(M)], NEW)})
    with pytest.raises(InputError, match="share their classes"):
        evaluate(table(OLD), {"new": (IDS, NEW[:, :3] / NEW[:, :3].sum(axis=1, keepdims=True))})
