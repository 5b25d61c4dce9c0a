import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparing.cache.encodings import ENCODINGS, Encoded, packing, parse_encoding
from sparing.errors import InputError
from sparing.numerics.distributions import entropy

LOSSLESS_TOP = ["float32", "float16", "int8", "int4", "top1-int4", "top2-int4", "top3-int4-uint16"]
WIDE = [
    "top1-int8",
    "top2-int8-uint16",
    "top3-float16",
    "top1-float16",
    "top2-float32",
    "top3-float32-uint16",
]
UNIFORM = ["int8-uniform", "int4-uniform", "top1-int4-uniform", "top3-int4-uniform"]


@st.composite
def tables(draw, least=4):
    """Distributions with ties, zeros, one-hot rows, uniform rows and tiny tails."""
    c = draw(st.sampled_from([least, 5, 16, 17, 100, 300]))
    assume(c >= least)
    m = draw(st.integers(1, 6))
    kind = st.sampled_from([0.0, 1e-9, 1e-6, 0.003, 0.2, 0.2001, 1.0, 30.0])
    raw = draw(hnp.arrays(np.float64, (m, c), elements=st.one_of(kind, st.floats(0, 1))))
    raw[raw.sum(axis=1) <= 0] = 1
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def round_trip(name, probs):
    encoding = parse_encoding(name, probs.shape[1])
    column = encoding.to_column(encoding.encode(probs))
    assert column.type == encoding.arrow_type
    return encoding.from_column(column)


@pytest.mark.parametrize("name", [*LOSSLESS_TOP, *WIDE])
@settings(max_examples=60, deadline=None)
@given(tables())
def test_a_round_trip_is_a_distribution_with_the_same_first_class(name, probs):
    encoded = round_trip(name, probs)
    decoded = encoded.decode()
    assert decoded.dtype == np.float32
    assert decoded.min() >= 0
    np.testing.assert_allclose(decoded.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(decoded.argmax(axis=1), probs.argmax(axis=1))
    np.testing.assert_array_equal(encoded.classes(), probs.argmax(axis=1))


@pytest.mark.parametrize("name", UNIFORM)
@settings(max_examples=60, deadline=None)
@given(tables())
def test_the_uniform_forms_decode_to_distributions(name, probs):
    encoded = round_trip(name, probs)
    decoded = encoded.decode()
    assert decoded.min() >= 0
    np.testing.assert_allclose(decoded.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(encoded.classes(), decoded.argmax(axis=1))


@pytest.mark.parametrize(("name", "steps"), [("int8", 255), ("int4", 15)])
@settings(max_examples=60, deadline=None)
@given(tables())
def test_ratios_to_the_largest_are_within_half_a_level(name, steps, probs):
    decoded = round_trip(name, probs).decode().astype(np.float64)
    before = (probs.astype(np.float64) / probs.max(axis=1, keepdims=True)) ** 0.25 * steps
    after = (decoded / decoded.max(axis=1, keepdims=True)) ** 0.25 * steps
    error = np.abs(before - after)
    # What would level with the first class, from a lower index, is stored one level lower.
    lowered = (np.rint(before) == steps) & (np.arange(probs.shape[1]) < probs.argmax(axis=1)[:, None])
    assert (error <= np.where(lowered, 1, 0.5) + 1e-4).all()


@pytest.mark.parametrize("k", [1, 2, 3])
@settings(max_examples=60, deadline=None)
@given(tables())
def test_top_k_keeps_ratios_and_missing_mass_within_half_a_level(k, probs):
    c = probs.shape[1]
    decoded = round_trip(f"top{k}-int4", probs).decode().astype(np.float64)
    p = probs.astype(np.float64)
    listed = np.argsort(-p, axis=1, kind="stable")[:, :k]
    before, after = (np.take_along_axis(table, listed, axis=1) for table in (p, decoded))
    ratio = [(table / table[:, :1]) ** 0.25 * 15 for table in (before, after)]
    assert (np.abs(ratio[0] - ratio[1]) <= 0.5 + 1e-4).all()
    missing = [15 * np.sqrt(np.clip(1 - table.sum(axis=1), 0, 1) / (1 - k / c)) for table in (before, after)]
    # Where half a level would lift the unlisted classes above the last listed one, they stay at its level.
    rest = decoded.min(axis=1)
    capped = rest >= after[:, -1] * (1 - 1e-5)
    assert ((np.abs(missing[0] - missing[1]) <= 0.5 + 1e-3) | capped).all()
    assert (rest <= after[:, -1] * (1 + 1e-5)).all()


# Of each ratio to the largest, and of the missing mass relative to the most it can be: the relative error and
# the absolute error of what is next to zero. Half a level of 255, on the scale of fourth roots, is 1 / 510.
@pytest.mark.parametrize(
    ("number", "relative", "absolute", "power"),
    [("int8", 0, 1 / 510, 0.25), ("float16", 2.0**-11, 2.0**-25, 1), ("float32", 0, 0, 1)],
)
@pytest.mark.parametrize("k", [1, 3])
@settings(max_examples=60, deadline=None)
@given(tables())
def test_wider_lists_keep_ratios_and_missing_mass(number, relative, absolute, power, k, probs):
    c = probs.shape[1]
    decoded = round_trip(f"top{k}-{number}", probs).decode().astype(np.float64)
    p = probs.astype(np.float64)
    listed = np.argsort(-p, axis=1, kind="stable")[:, :k]
    before, after = (np.take_along_axis(table, listed, axis=1) for table in (p, decoded))
    slack = 3e-6  # float32 sums, and the lead of the first class
    old, new = ((table / table[:, :1]) ** power for table in (before, after))
    assert (np.abs(old - new) <= relative * old + absolute + slack).all()
    old, new = (np.clip(1 - table.sum(axis=1), 0, 1) / (1 - k / c) for table in (before, after))
    # The missing mass reads as 1 minus a sum of float32: its own rounding counts beside the encoding's.
    error = relative * old + absolute + slack
    low = np.maximum(np.maximum(old, slack) ** power - error, 0) ** (1 / power) - slack
    high = (np.maximum(old, slack) ** power + error) ** (1 / power) + slack
    rest = decoded.min(axis=1)
    capped = rest >= after[:, -1] * (1 - 1e-5)
    assert (((low <= new) & (new <= high)) | capped).all()
    assert (rest <= after[:, -1] * (1 + 1e-5)).all()


def test_a_wider_list_by_hand():
    # Three quarters at most can be missing beside one class of four; one half is: two thirds of that.
    probs = np.float32([[0.125, 0.5, 0.25, 0.125]])
    one = round_trip("top1-float32", probs)
    np.testing.assert_array_equal(one.encoding.index(one.stored), [[1]])
    numbers = packing.from_halves(one.encoding.numbers(one.stored), 8, np.uint32).view(np.float32)
    np.testing.assert_allclose(numbers, [[2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(one.decode(), [[1 / 6, 0.5, 1 / 6, 1 / 6]], atol=1e-6)
    # 255 * (2 / 3) ** (1/4) = 230.4, and 255 * 0.5 ** (1/4) = 214.4 is the ratio of the second class.
    two = round_trip("top2-int8", probs)
    numbers = packing.from_halves(two.encoding.numbers(two.stored), 2, np.uint8)
    # Of at most one half one quarter is missing.
    np.testing.assert_array_equal(numbers, [[214, 214]])


@settings(max_examples=60, deadline=None)
@given(tables())
def test_floats_keep_their_precision(probs):
    np.testing.assert_array_equal(round_trip("float32", probs).decode(), probs)
    np.testing.assert_allclose(round_trip("float16", probs).decode(), probs, rtol=2e-3, atol=2e-7)


# Table 10 of the paper: bytes per sample for 100 classes; and, by its way of counting, of the other cells of
# Table 11: k class indices and k probabilities, packed and with 16-bit indices.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("float32", 400.0),
        ("float16", 200.0),
        ("int8", 100.0),
        ("int4", 50.0),
        ("top8-int4", 12.0),
        ("top8-int4-uint16", 20.0),
        ("top4-int4", 6.0),
        ("top4-int4-uint16", 10.0),
        ("top1-int4", 1.5),
        ("top1-int4-uint16", 2.5),
        ("top8-int8", 16.0),
        ("top8-int8-uint16", 24.0),
        ("top4-int8", 8.0),
        ("top1-int8", 2.0),
        ("top8-float16", 24.0),
        ("top4-float16", 12.0),
        ("top4-float16-uint16", 16.0),
        ("top1-float16", 3.0),
        ("top8-float32", 40.0),
        ("top4-float32", 20.0),
        ("top1-float32", 5.0),
        ("top1-float32-uint16", 6.0),
    ],
)
def test_nominal_sizes_are_those_of_table_10(name, size):
    assert parse_encoding(name, 100).nominal_bytes == size


@pytest.mark.parametrize(
    ("c", "halves"), [(10, 1), (16, 1), (17, 2), (256, 2), (257, 3), (1000, 3), (65536, 4)]
)
def test_packed_indices_take_as_few_half_bytes_as_the_classes_need(c, halves):
    encoding = parse_encoding("top3-int4", c)
    assert encoding.nominal_bytes == 3 * (halves + 1) / 2
    probs = np.zeros((2, c), np.float32)
    probs[0, [c - 1, 4, 7]] = [0.5, 0.3, 0.2]
    probs[1, [0, c - 2, 3]] = [0.6, 0.3, 0.1]
    encoded = round_trip("top3-int4", probs)
    np.testing.assert_array_equal(encoded.encoding.index(encoded.stored), [[c - 1, 4, 7], [0, c - 2, 3]])


def test_a_hand_worked_row():
    # Ratios to 0.5: 1, 0.5, 0.25, 0.25. Fourth roots times 15: 15, 12.61, 10.61, 10.61.
    probs = np.float32([[0.125, 0.5, 0.25, 0.125]])
    encoded = round_trip("int4", probs)
    np.testing.assert_array_equal(encoded.encoding.levels(encoded.stored), [[11, 15, 13, 11]])
    weights = (np.array([11, 15, 13, 11]) / 15) ** 4
    np.testing.assert_allclose(encoded.decode()[0], weights / weights.sum(), rtol=1e-6)
    # Top-1 leaves out 0.5 of at most 0.75: sqrt(2/3) * 15 = 12.25, so the missing mass is 0.75 * (12/15)^2.
    one = round_trip("top1-int4", probs)
    np.testing.assert_array_equal(one.encoding.index(one.stored), [[1]])
    np.testing.assert_array_equal(one.encoding.numbers(one.stored), [[12]])
    np.testing.assert_allclose(one.decode(), [[0.16, 0.52, 0.16, 0.16]], atol=1e-5)
    # The caption's form: zero-filled and renormalised, a single probability is a certainty.
    np.testing.assert_array_equal(round_trip("top1-int4-uniform", probs).decode(), [[0, 1, 0, 0]])


def test_a_top_1_cache_still_orders_rows_by_entropy():
    sure = np.linspace(0.2, 0.999, 200, dtype=np.float32)
    probs = np.repeat(((1 - sure) / 9)[:, None], 10, axis=1)
    probs[:, 0] = sure
    h = entropy(round_trip("top1-int4", probs).decode())
    assert (np.diff(h) <= 1e-6).all()
    assert len(np.unique(h.round(5))) >= 12


def test_rows_can_be_picked_from_encoded_ones():
    probs = np.random.default_rng(0).dirichlet(np.ones(7), 9).astype(np.float32)
    encoded = round_trip("top3-int4", probs)
    np.testing.assert_array_equal(encoded[[4, 2]].decode(), encoded.decode()[[4, 2]])
    assert isinstance(encoded[:3], Encoded)
    assert len(encoded[:0].decode()) == 0


@pytest.mark.parametrize(
    "name",
    [
        "",
        "int2",
        "float16-uniform",
        "top0-int4",
        "top4-int2",
        "top4-float16-uniform",
        "int4-uint16",
        "top4",
        "top8-int4-packed",
    ],
)
def test_names_that_mean_nothing_are_refused(name):
    with pytest.raises(InputError, match="there is no encoding"):
        parse_encoding(name, 100)


def test_an_unknown_name_lists_every_family():
    with pytest.raises(InputError) as raised:
        parse_encoding("zip", 100)
    for family in ENCODINGS:
        assert family.forms in str(raised.value)


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="lists 8 of 8 classes: use int4"):
        parse_encoding("top8-int4", 8)
    with pytest.raises(InputError, match="lists 8 of 8 classes: use float16"):
        parse_encoding("top8-float16", 8)
    with pytest.raises(InputError, match="up to 65536 classes"):
        parse_encoding("top8-int4", 70_000)
