import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import features

from sparing.errors import BudgetError, InputError
from sparing.offload import EdgeOutput, Geometry, Scheme
from sparing.offload.schemes import best_fits, parse_budget
from sparing.offload.wire.payload import max_payload, unpack

TEXTS = [
    "raw:sage",
    "raw:grid:3",
    "raw:random:1",
    "raw:cumulative",
    "mosaic:spread:5:dct8",
    "mosaic:sage:9:webp",
    "mosaic:importance:2:jpeg",
    "mosaic:cumulative:6:webp",
    "whole:dct8",
    "whole:dct16",
    "whole:dct32",
    "whole:webp:3",
    "whole:jpeg",
    "whole:webp",
    "whole:dct8:5",
]
if features.check("avif"):
    TEXTS += ["whole:avif", "whole:avif:3", "mosaic:grid:5:avif"]


def some_view(geometry, m, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (m, geometry.height, geometry.width, 3), dtype=np.uint8)
    n = geometry.patches
    return pixels, EdgeOutput(rng.normal(size=(m, 3)), rng.random((m, n)), rng.normal(size=(m, n, 4)))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(TEXTS),
    st.integers(3, 6),
    st.integers(3, 6),
    st.sampled_from([1, 2, 4, 7]),
    st.lists(st.integers(1, 4000), min_size=1, max_size=4),
    st.integers(0, 999),
)
def test_no_payload_is_over_its_budget_and_every_one_is_read(text, rows, cols, patch, budgets, seed):
    geometry = Geometry(rows * patch, cols * patch, patch)
    pixels, seen = some_view(geometry, 2, seed)
    scheme = Scheme.parse(text)
    for budget, payloads in zip(
        budgets, scheme.encode(pixels, seen, geometry, budgets, seed=seed), strict=True
    ):
        for payload in payloads:
            if payload is None:
                continue
            assert len(payload) <= budget
            evidence = unpack(payload, geometry)
            assert evidence.patches.shape == (len(evidence.positions), patch, patch, 3)
            assert (np.diff(evidence.positions) > 0).all()
            assert 0 <= evidence.positions.min() <= evidence.positions.max() < geometry.patches


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(20, 3200), st.integers(0, 99))
def test_raw_patches_come_back_but_for_the_bits_left_out(depth, budget, seed):
    geometry = Geometry(16, 24, 4)
    pixels, seen = some_view(geometry, 1, seed)
    payload = Scheme.parse(f"raw:sage:{depth}").encode(pixels, seen, geometry, [budget])[0][0]
    if payload is None:
        assert 8 * budget < 8 + 1 + 5 + 5 + 48 * depth
        return
    evidence = unpack(payload, geometry)
    sent = geometry.cut(pixels)[0, evidence.positions]
    np.testing.assert_array_equal(evidence.patches >> (8 - depth), sent >> (8 - depth))
    if depth == 8:
        np.testing.assert_array_equal(evidence.patches, sent)
    if len(evidence.positions) < geometry.patches:
        # One more patch would not have fitted, its index set being at most 6 bits longer or shorter.
        assert len(payload) * 8 + 48 * depth + 8 + 6 > 8 * budget


def test_several_budgets_give_what_each_gives_alone(geometry, images):
    pixels = images(2)
    _, seen = some_view(geometry, 2, 0)
    for text in TEXTS:
        scheme = Scheme.parse(text)
        together = scheme.encode(pixels, seen, geometry, [50, 200, 900])
        alone = [scheme.encode(pixels, seen, geometry, [budget])[0] for budget in (50, 200, 900)]
        assert together == alone


def test_the_whole_image_comes_back_better_the_larger_the_budget(geometry, images):
    pixels = images(1)
    _, seen = some_view(geometry, 1, 0)
    for codec in ("webp", "jpeg", "avif", "dct8", "dct16", "dct32"):
        errors = []
        for payloads in Scheme.parse(f"whole:{codec}").encode(pixels, seen, geometry, [150, 500, 3000]):
            evidence = unpack(payloads[0], geometry)
            errors.append(np.abs(evidence.patches.astype(int) - geometry.cut(pixels)[0]).mean())
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 15


def test_a_large_budget_does_not_make_payloads_that_no_server_reads(geometry):
    noise, seen = some_view(geometry, 1, 0)
    for text in ("whole:dct8", "whole:jpeg", "raw:sage", "mosaic:sage:64:dct8"):
        payload = Scheme.parse(text).encode(noise, seen, geometry, [100_000])[0][0]
        assert len(payload) <= max_payload(geometry)
    assert len(Scheme.parse("whole:dct8").encode(noise, seen, geometry, [100_000])[0][0]) > 2500


def test_a_mosaic_holds_its_patches(geometry, images):
    pixels = images(1)
    _, seen = some_view(geometry, 1, 0)
    payload = Scheme.parse("mosaic:sage:7:dct8").encode(pixels, seen, geometry, [3000])[0][0]
    evidence = unpack(payload, geometry)
    assert len(evidence.positions) == 7
    assert np.abs(evidence.patches.astype(int) - geometry.cut(pixels)[0, evidence.positions]).mean() < 3


def test_nothing_fits_in_less_than_the_smallest_payload(geometry, images):
    pixels = images(2)
    _, seen = some_view(geometry, 2, 0)
    for text in TEXTS:
        assert Scheme.parse(text).encode(pixels, seen, geometry, [1])[0] == [None, None]
    assert best_fits(pixels[0], "dct8", [-5, 0]) == [None, None]


def test_texts_are_read_and_written():
    for text in [*TEXTS, "whole:avif:7"]:
        assert str(Scheme.parse(text)) == text
    assert str(Scheme.parse("raw:sage:8")) == "raw:sage"


BAD = (
    "|raw|raw:best|raw:sage:9|raw:sage:x|whole|whole:gif|whole:webp:0|mosaic:sage:webp|"
    "mosaic:sage:0:webp|whole:webp:4:2|patches:sage"
)


@pytest.mark.parametrize("bad", BAD.split("|"))
def test_bad_texts_are_refused(bad):
    with pytest.raises(InputError, match="scheme"):
        Scheme.parse(bad)


def test_budgets_as_a_person_writes_them():
    found = [
        parse_budget(text) for text in ("512", "512B", "2KB", "2KiB", "1.5 kb", "4096bit", "4095bits", "1MB")
    ]
    assert found == [512, 512, 2000, 2048, 1500, 512, 511, 1_000_000]
    for bad in ("", "0", "-1", "2GB", "seven", "1e3", "9999999MB", "7bit", "nan"):
        with pytest.raises(BudgetError):
            parse_budget(bad)
