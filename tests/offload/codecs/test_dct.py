import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.offload.codecs import dct


def some_image(height, width, seed, kind):
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "flat":
        return np.full((height, width, 3), rng.integers(0, 256), dtype=np.uint8)
    if kind == "extreme":
        return (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, cols * 255 // width, (rows + cols) % 256], 2).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([8, 16, 32]),
    st.integers(0, 63),
    st.integers(0, 99),
    st.sampled_from(["noise", "flat", "extreme", "ramp"]),
)
def test_the_reader_gets_what_the_quantiser_left(height, width, block, quality, seed, kind):
    image = some_image(height, width, seed, kind)
    coefficients = dct.transform(image, block)
    data = dct.encode(coefficients, quality)
    kept = dct.quantise(coefficients, quality) * np.float32(dct.step_of(quality))
    np.testing.assert_array_equal(dct.decode(data, height, width, block), dct.inverse(kept, height, width))


@pytest.mark.parametrize("block", [8, 16, 32])
def test_the_transform_is_orthonormal_and_comes_back(block):
    image = some_image(64, 96, 0, "noise")
    coefficients = dct.transform(image, block)
    ycc = (image.astype(np.float64) - 128) @ dct._TO_YCC.T.astype(np.float64)
    np.testing.assert_allclose((coefficients.astype(np.float64) ** 2).sum(), (ycc**2).sum(), rtol=1e-5)
    np.testing.assert_array_equal(dct.inverse(coefficients, 64, 96), image)


def test_more_quality_means_more_bytes_and_less_error(images):
    image = images(1)[0]
    coefficients = dct.transform(image, 8)
    sizes, errors = [], []
    for quality in (0, 16, 32, 48, 63):
        data = dct.encode(coefficients, quality)
        sizes.append(len(data))
        errors.append(np.abs(dct.decode(data, 32, 32, 8).astype(int) - image).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert sizes[0] <= 8
    assert errors[-1] < 2


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([8, 16, 32]))
def test_any_bytes_are_an_image_or_refused(data, block):
    try:
        image = dct.decode(data, 32, 32, block)
    except InputError:
        return
    assert image.shape == (32, 32, 3)


def test_bytes_that_no_encoder_sends_are_refused(images):
    data = dct.encode(dct.transform(images(1)[0], 8), 30)
    for bad in (b"", data + b"\x00", data + b"\x01" * 8):
        with pytest.raises(InputError):
            dct.decode(bad, 32, 32, 8)


def test_images_of_many_shapes_leave_little_behind():
    dct._layout.cache_clear()
    for cols in range(1, 21):
        dct.decode(b"\x3f", 8, 8 * cols, 8)
    assert dct._layout.cache_info().currsize <= 8
