import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.route.conftest import image, png

from sparing.errors import InputError
from sparing.images import BLUR, CLEAN, NOISE, SEVERITIES, Corruption, blur, noise, variants

IDS = pa.array([f"s{i}" for i in range(12)])
VALUES = [png(image(i)) for i in range(12)]


def test_clean_leaves_the_values_alone():
    assert CLEAN.apply(IDS, VALUES) is VALUES
    assert CLEAN.name == "clean"


def test_a_sample_comes_out_the_same_however_it_is_batched():
    severe = Corruption("severe")
    together = severe.apply(IDS, VALUES)
    for row in range(12):
        (alone,) = severe.apply(IDS[row : row + 1], VALUES[row : row + 1])
        assert np.array_equal(alone, together[row])
    decoded = severe.apply(IDS, [image(i) for i in range(12)])
    assert all(map(np.array_equal, decoded, together))


def test_id_and_seed_decide_the_kind_and_the_noise():
    same = [VALUES[0]] * 12
    severe = Corruption("severe").apply(IDS, same)
    by_blur = blur(image(0), BLUR["severe"])
    blurred = [np.array_equal(one, by_blur) for one in severe]
    assert 0 < sum(blurred) < 12
    noisy = [one.tobytes() for one, is_blur in zip(severe, blurred, strict=True) if not is_blur]
    assert len(set(noisy)) == len(noisy)
    other = Corruption("severe", seed=1).apply(IDS, same)
    assert any(not np.array_equal(a, b) for a, b in zip(severe, other, strict=True))


def test_blur_is_a_gaussian_in_hundredths_of_the_shorter_side():
    """An impulse spreads into a Gaussian whose variance is the stated one, along both axes."""
    pixels = np.zeros((101, 121, 3), np.uint8)
    pixels[46:55, 56:65] = 255  # a box of 9: its own variance is (81 - 1) / 12
    spread = blur(pixels, 3.0)[..., 0].astype(float)
    for axis, centre in ((0, 50), (1, 60)):
        profile = spread.sum(axis=1 - axis)
        at = np.arange(len(profile)) - centre
        assert (profile * at**2).sum() / profile.sum() == pytest.approx(80 / 12 + 3.03**2, rel=0.03)


def test_noise_has_the_stated_spread():
    grey = np.full((200, 200, 3), 128, np.uint8)
    for severity in ("mild", "moderate"):
        noisy = noise(grey, NOISE[severity], seed=7).astype(float)
        assert noisy.std() / 255 == pytest.approx(NOISE[severity], rel=0.02)
        assert noisy.mean() == pytest.approx(128, abs=0.5)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 5), st.integers(0, 2**64 - 1))
def test_shapes_and_types_stay(height, width, strength, seed):
    pixels = image(0, height, width)
    for after in (blur(pixels, strength), noise(pixels, strength, seed=seed)):
        assert (after.shape, after.dtype) == (pixels.shape, np.uint8)
    assert np.array_equal(blur(pixels, 0), pixels)
    assert np.array_equal(noise(pixels, 0, seed=seed), pixels)


def test_each_severity_moves_further_from_the_image():
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    smooth[20:40, 20:40] = 255
    for way, strengths in ((blur, BLUR), (lambda p, s: noise(p, s, seed=3), NOISE)):
        away = [np.abs(way(smooth, strengths[s]).astype(int) - smooth).mean() for s in SEVERITIES]
        assert away[0] == 0
        assert away == sorted(away)
        assert len(set(away)) == 4


def test_the_option():
    assert variants(None) == (CLEAN,)
    four = variants("blur, noise", seed=5)
    assert [variant.severity for variant in four] == list(SEVERITIES)
    assert four[1].kinds == ("blur", "noise")
    assert len({variant.name for variant in (*four, *variants("blur"), *variants("noise"))}) == 4 + 3 + 3
    for wrong in ("fog", "blur,blur", ""):
        with pytest.raises(InputError, match="unknown corruption"):
            variants(wrong)
    with pytest.raises(InputError, match="unknown severity 'hefty'"):
        Corruption("hefty")


def test_what_is_no_image_is_named():
    with pytest.raises(InputError, match="id 's1'"):
        Corruption("mild").apply(IDS[:2], [VALUES[0], b"nothing"])
