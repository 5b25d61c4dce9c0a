from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from tests.refresh.learned.conftest import CLASSES, KINDS, ROWS

from sparing.refresh.learned.features import Known, fit_features, join_features, log_features, shape_features


def part(known, start, end):
    columns = {name: values[start:end] for name, values in known.columns.items()}
    return Known(known.probs[start:end], known.held[start:end], keys=known.keys[start:end], columns=columns)


def test_blocks_lie_side_by_side(update, encoder):
    rows = encoder.encode(update.known)
    assert rows.inputs.shape == (ROWS, sum(encoder.widths.values()))
    assert list(encoder.widths) == ["uncertainty", "shape", "class", "held", "columns", "pairs", "logs"]
    assert len(rows) == ROWS
    np.testing.assert_allclose(rows.entropy, scipy_entropy(update.known.probs, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows.cached, update.old)
    start = encoder.widths["uncertainty"] + encoder.widths["shape"]
    np.testing.assert_array_equal(
        rows.inputs[:, start : start + CLASSES].toarray(), np.eye(CLASSES)[update.old]
    )


def test_chunks_give_the_features_of_the_whole(update, encoder):
    chunks = [part(update.known, 0, 600), part(update.known, 600, ROWS)]
    made = fit_features(chunks, CLASSES, KINDS)
    assert made.widths == encoder.widths
    joined, whole = join_features([made.encode(chunk) for chunk in chunks]), encoder.encode(update.known)
    np.testing.assert_allclose(joined.inputs.toarray(), whole.inputs.toarray(), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(joined.folds, whole.folds)
    some = whole.take(np.array([3, 1]))
    np.testing.assert_array_equal(some.inputs.toarray(), whole.inputs.toarray()[[3, 1]])


def test_pairs_are_those_that_occur_twice(update, encoder):
    joint = list(zip(update.old.tolist(), update.known.columns["c"], strict=True))
    often = {pair for pair in joint if joint.count(pair) >= 2}
    assert len(encoder.pairs["c"]) == len(often)
    at = sum(width for name, width in encoder.widths.items() if name not in ("pairs", "logs"))
    marked = encoder.encode(update.known).inputs[:, at : at + len(often)].toarray()
    np.testing.assert_array_equal(marked.sum(axis=1), [pair in often for pair in joint])
    assert len({(pair, row.argmax()) for pair, row in zip(joint, marked, strict=True) if row.any()}) == len(
        often
    )


def test_rows_that_all_hold_one_model_say_nothing_of_it(update):
    known = replace(update.known, held=np.ones(ROWS, dtype=np.int64), columns={})
    assert list(fit_features([known], CLASSES).widths) == ["uncertainty", "shape", "class", "logs"]


@pytest.mark.parametrize("classes", [2, 3, 300])
def test_any_number_of_classes(classes):
    probs = np.random.default_rng(0).dirichlet(np.full(classes, 0.01), 50).astype(np.float32)
    known = Known(probs, np.zeros(50, np.int64), np.arange(50, dtype=np.uint64), {})
    rows = (made := fit_features([known], classes)).encode(known)
    assert rows.inputs.shape[1] == sum(made.widths.values())
    assert np.isfinite(rows.inputs.toarray()).all()
    assert log_features(probs).shape[1] == min(classes, 256)
    assert shape_features(probs).shape[1] == (2 if classes == 2 else 4)
