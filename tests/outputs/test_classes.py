import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.outputs import KINDS, Classes, read_kind

A = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=np.float32)
B = np.array([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2]], dtype=np.float32)


def test_agreement_is_by_the_most_probable_class():
    assert Classes(3).agree(A, B).tolist() == [1, 0]


def test_change_is_the_entropy_decrease():
    by_hand = [-sum(p * np.log(p) for p in row) for row in A.tolist() + B.tolist()]
    assert np.allclose(Classes(3).change(A, B), [by_hand[0] - by_hand[2], by_hand[1] - by_hand[3]], atol=1e-6)


def test_a_missing_label_is_not_right():
    assert Classes(3).correct(A, np.array([0, -1])).tolist() == [True, False]


def test_the_signal_holds_the_largest_log_probabilities_and_the_entropy():
    signal = Classes(3).signal(A)
    assert np.allclose(signal[1, :3], np.log([0.8, 0.1, 0.1]), atol=1e-6)
    assert signal[1, 3] == pytest.approx(-(0.8 * np.log(0.8) + 0.2 * np.log(0.1)), abs=1e-6)


@given(st.integers(0, 5), st.integers(2, 6))
def test_columns_return_the_same_bits(rows, classes):
    rng = np.random.default_rng(rows)
    probs = rng.dirichlet(np.ones(classes), rows).astype(np.float32)
    kind = Classes(classes)
    back = kind.from_columns(pa.table({"id": pa.array(range(rows)), **kind.to_columns(probs)}))
    assert np.array_equal(back, probs)
    assert np.array_equal(kind.join([probs[:2], probs[2:]]), probs)


def test_other_dimensions_are_refused_with_both_numbers():
    with pytest.raises(InputError, match="3 classes, where 4 are expected"):
        Classes(4).check(A, what="outputs")


def test_class_names_must_match():
    with pytest.raises(InputError, match="2 class names for distributions over 3 classes"):
        Classes(3, ("cat", "dog"))


@pytest.mark.parametrize("kind", [Classes(3), Classes(2, ("no", "yes"))])
def test_a_file_describes_its_kind(kind):
    assert read_kind(kind.spec(), "c.lance") == kind


@pytest.mark.parametrize("change", [{"type": "smells"}, {"version": 99}])
def test_an_unknown_kind_says_what_to_install(change):
    with pytest.raises(InputError, match=r"c\.lance .* upgrade with pip install"):
        read_kind({**Classes(3).spec(), **change}, "c.lance")


def test_kinds_are_listed_by_their_name():
    assert all(kind.name == name for name, kind in KINDS.items())
