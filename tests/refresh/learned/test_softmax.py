import numpy as np
from scipy.sparse import csr_matrix

from sparing.refresh.learned.softmax import SoftmaxRegression, SoftmaxRows

C = 4


def rows_of(m, seed=0):
    draw = np.random.default_rng(seed)
    probs = draw.dirichlet(np.full(C, 0.3), m).astype(np.float32)
    dense = np.hstack([np.ones((m, 1)), draw.normal(size=(m, 2))]).astype(np.float32)
    sparse = csr_matrix(np.eye(3, dtype=np.float32)[draw.integers(0, 3, m)])
    logs = (np.log(np.maximum(probs, 1e-6)) - np.log(1e-6)).astype(np.float32)
    return SoftmaxRows(dense, sparse, logs, probs.argmax(axis=1))


def test_before_any_rows_it_keeps_the_old_answer():
    rows = rows_of(50)
    model = SoftmaxRegression(C, 6, 1.0)
    model.classes = np.arange(C)
    found = model.probabilities(rows)
    np.testing.assert_array_equal(found.argmax(axis=1), rows.cached)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_it_learns_where_classes_go():
    rows = rows_of(600)
    moved = rows.sparse[:, 0].toarray()[:, 0] > 0
    new = np.where(moved, (rows.cached + 1) % C, rows.cached)
    model = SoftmaxRegression(C, 6, 0.01)
    model.fit(rows, np.where(moved, 2, rows.cached))
    assert (model.probabilities(rows).argmax(axis=1) == np.where(moved, 2, rows.cached)).mean() > 0.98
    assert (model.probabilities(rows).argmax(axis=1) == new).mean() < 0.9


def test_a_class_that_the_old_model_does_not_have():
    rows = rows_of(300)
    new = np.where(rows.sparse[:, 1].toarray()[:, 0] > 0, C, rows.cached)
    model = SoftmaxRegression(C + 3, 6, 0.01)
    model.fit(rows, new)
    assert model.classes.tolist() == [0, 1, 2, 3, C]
    found = model.classes[model.probabilities(rows).argmax(axis=1)]
    assert (found == new).mean() > 0.98


def test_the_fit_is_a_minimum():
    """No step in any direction lowers the penalised loss, computed here from probabilities alone."""
    rows, penalty = rows_of(200), 1.0
    new = np.random.default_rng(1).integers(0, C, 200)
    model = SoftmaxRegression(C, 6, penalty)
    model.fit(rows, new, iterations=400)

    def loss():
        p = model.probabilities(rows)[np.arange(200), new].astype(np.float64)
        return (
            -np.log(p).sum()
            + 0.5 * penalty * (model._weights.astype(np.float64) ** 2).sum()
            + 0.05 * ((model.shared - 1) ** 2).sum()
        )

    best = loss()
    draw = np.random.default_rng(2)
    for _ in range(10):
        step = draw.normal(size=model._weights.shape).astype(np.float32)
        before = model._weights
        model._weights = before + np.float32(0.05) * step
        assert loss() > best
        model._weights = before
    model.shared += np.array([0.1, 0])
    assert loss() > best
