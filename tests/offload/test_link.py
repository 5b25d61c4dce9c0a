import numpy as np
import pytest

from sparing.errors import InputError
from sparing.offload import Link


def test_a_link_without_loss_by_hand():
    rng = np.random.default_rng(0)
    assert Link(bits_per_second=8000, latency=0.05).seconds(4000, rng) == pytest.approx(0.6)
    assert Link().seconds(10**9, rng) == 0


def test_loss_takes_on_average_one_try_in_one_minus_loss():
    rng = np.random.default_rng(0)
    link = Link(bits_per_second=1e5, latency=0.1, loss=0.2)
    # One packet and one answer: 0.5 repeats on average, each a round trip and the packet's bits again.
    mean = np.mean([link.seconds(8000, rng) for _ in range(20000)])
    assert mean == pytest.approx(0.08 * 1.5 + 0.2 * 1.5, rel=0.02)


@pytest.mark.parametrize("bad", [{"bits_per_second": 0}, {"latency": -1}, {"loss": 1}, {"loss": np.nan}])
def test_impossible_links_are_refused(bad):
    with pytest.raises(InputError):
        Link(**bad)
