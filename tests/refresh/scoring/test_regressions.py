import numpy as np
import pytest
from sklearn.neural_network import MLPRegressor
from tests.refresh.scoring.conftest import make_pairs, make_rows

from sparing.refresh.scoring.regressions import DeltaTop1, MLink


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_they_are_scikit_learns_regressions():
    rng = np.random.default_rng(0)
    old, new, unseen = (rng.dirichlet(np.full(5, 0.5), 300).astype(np.float32) for _ in range(3))

    def reference(wanted):
        made = MLPRegressor(batch_size=32, hidden_layer_sizes=(64,), max_iter=30, tol=0.0, random_state=2)
        return made.fit(old, wanted).predict(unseen)

    pairs = make_pairs(old, [new])
    rise = DeltaTop1.fit(pairs, 2).benefits(make_rows(unseen))[:, 0]
    np.testing.assert_allclose(rise, reference(new.max(axis=1) - old.max(axis=1)), atol=1e-4)
    doubt = MLink.fit(pairs, 2).benefits(make_rows(unseen))[:, 0]
    np.testing.assert_allclose(doubt, 1 - reference(new).max(axis=1), atol=1e-4)
