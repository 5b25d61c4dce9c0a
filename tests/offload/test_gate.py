import numpy as np
import pytest

from sparing.errors import InputError
from sparing.offload import Gate
from sparing.offload.gate import uncertainty

PROBS = np.array(
    [[0.5, 0.25, 0.25], [0.51, 0.49, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=np.float32
)


def test_uncertainties_by_hand():
    np.testing.assert_allclose(
        uncertainty(PROBS, "min-entropy"), [1, -np.log2(0.51), 0, np.log2(3)], atol=1e-6
    )
    h = -0.51 * np.log2(0.51) - 0.49 * np.log2(0.49)
    np.testing.assert_allclose(uncertainty(PROBS, "entropy"), [1.5, h, 0, np.log2(3)], atol=1e-5)
    np.testing.assert_allclose(uncertainty(PROBS, "margin"), [0.75, 0.98, 0, 1], atol=1e-6)


def test_the_papers_threshold_offloads_what_has_no_probability_above_one_half():
    assert Gate().offloads(PROBS).tolist() == [True, False, False, True]


def test_a_share_offloads_the_most_uncertain():
    assert Gate(share=0.5).offloads(PROBS).tolist() == [True, False, False, True]
    assert Gate("margin", share=0.5).offloads(PROBS).tolist() == [False, True, False, True]
    assert Gate(share=0).offloads(PROBS).sum() == 0
    assert Gate(share=0.29).offloads(np.tile(PROBS, (25, 1))).sum() == 29
    assert Gate(share=0.5).offloads(PROBS[:0]).shape == (0,)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.999, 1.0])
def test_a_share_holds_over_all_batches_however_small_they_are(size, share):
    gate, offloaded = Gate(share=share), 0
    probs = np.random.default_rng(0).dirichlet([1, 1, 1], 100)
    for start in range(0, 100, size):
        batch = probs[start : start + size]
        offloaded += int(gate.offloads(batch, seen=start, offloaded=offloaded).sum())
        assert offloaded == int(share * (start + len(batch)) + 1e-9)


def test_a_threshold_does_not_care_for_what_came_before():
    assert Gate().offloads(PROBS, seen=10, offloaded=10).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    "bad", [{"measure": "variance"}, {"threshold": -1}, {"threshold": float("nan")}, {"share": 1.5}]
)
def test_impossible_gates_are_refused(bad):
    with pytest.raises(InputError):
        Gate(**bad)
