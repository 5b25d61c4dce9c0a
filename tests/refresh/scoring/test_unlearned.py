from dataclasses import replace

import numpy as np
import pytest
from tests.refresh.scoring.conftest import make_rows

from sparing.numerics.distributions import entropy
from sparing.numerics.selection import tie_keys
from sparing.refresh.scoring.unlearned import Agreement, Cema, Entropy, LeastConfidence, Margin, Random

PROBS = np.array(
    [[0.97, 0.02, 0.01], [0.5, 0.4, 0.1], [0.45, 0.45, 0.1], [0.34, 0.33, 0.33]], dtype=np.float32
)


@pytest.mark.parametrize(("scorer", "first"), [(Entropy, 3), (LeastConfidence, 3), (Margin, 2)])
def test_less_sure_rows_come_first(scorer, first):
    benefits = scorer().benefits(make_rows(PROBS))[:, 0]
    assert benefits[0] == benefits.min()
    assert benefits.argmax() == first


def test_entropy_is_the_entropy():
    np.testing.assert_allclose(Entropy().benefits(make_rows(PROBS))[:, 0], entropy(PROBS), rtol=1e-6)


def test_random_is_uniform_and_the_same_for_the_same_rows():
    rows = replace(make_rows(np.full((20_000, 3), 1 / 3, np.float32)), ties=tie_keys(np.arange(20_000)))
    numbers = Random().benefits(rows)[:, 0]
    some = np.arange(500, 600)
    np.testing.assert_array_equal(numbers[some], Random().benefits(rows.take(some))[:, 0])
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert (np.abs(counts - 2000) < 200).all()


def test_cema_takes_its_band_first():
    probs = np.random.default_rng(0).dirichlet(np.ones(6), 500).astype(np.float32)
    values = entropy(probs)
    order = np.argsort(-Cema().benefits(make_rows(probs))[:, 0], kind="stable")
    inside = values[order] <= 0.4 * np.log(6)
    count = int(inside.sum())
    assert 0 < count < 500
    assert inside[:count].all()
    assert (np.diff(values[order][:count]) <= 1e-6).all()  # from the band's upper edge down
    assert (np.diff(values[order][count:]) >= -1e-6).all()  # then upwards from just above it


def test_agreement_counts_votes_first():
    first = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], np.float32)
    others = [first[:, ::-1], np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], np.float32)]
    found = Agreement().benefits(make_rows(first, others=others))[:, 0]
    assert np.argsort(-found).tolist() == [1, 2, 0]  # two of three differ; then the flatter mean
    assert (np.floor(found * 3) == [1, 2, 1]).all()  # of three models; a tie costs less than one vote
