import io

import numpy as np
import pytest
from PIL import Image

from sparing.data.samples import open_samples
from sparing.errors import InputError
from sparing.images import CLEAN, Corruption
from sparing.route.inputs import Inputs


def image(seed, size=(20, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def prepared(values, tmp_path, variants=(CLEAN,), size=8):
    samples = open_samples([(f"s{i}", value) for i, value in enumerate(values)])
    return Inputs(
        samples, variants, size=size, path=tmp_path / "inputs.npy", mean=(0.5,) * 3, std=(0.25,) * 3
    )


def test_images_are_resized_and_normalised(tmp_path):
    values = [image(seed) for seed in range(5)]
    inputs = prepared(values, tmp_path)
    got = inputs(np.array([3, 1]))
    for row, sample in enumerate((3, 1)):
        resized = Image.open(io.BytesIO(values[sample])).resize((8, 8), Image.Resampling.BILINEAR)
        expected = (np.asarray(resized).transpose(2, 0, 1) / 255 - 0.5) / 0.25
        np.testing.assert_allclose(got[row], expected, atol=1e-6)
    assert inputs.description.resize == (8, 8)


def test_every_variant_of_every_sample_has_its_place(tmp_path):
    values = [image(seed) for seed in range(4)]
    variants = (Corruption(), Corruption("severe", ("noise",)))
    inputs = prepared(values, tmp_path, variants)
    assert len(inputs) == 8
    samples = open_samples([(f"s{i}", value) for i, value in enumerate(values)])
    corrupted = variants[1].apply(samples.ids, values)
    resized = Image.fromarray(corrupted[2]).resize((8, 8), Image.Resampling.BILINEAR)
    expected = (np.asarray(resized).transpose(2, 0, 1) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(inputs(np.array([4 + 2]))[0], expected, atol=1e-6)


def test_numbers_are_centred_and_scaled_by_what_was_seen(tmp_path):
    values = list(np.random.default_rng(0).normal(7, 3, (600, 4)).astype(np.float32))
    for value in values:
        value[3] = 5.0  # constant: no scale to divide by
    inputs = prepared(values, tmp_path)
    got = inputs(np.arange(600))
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(got.std(axis=0), [1, 1, 1, 0], atol=1e-4)
    np.testing.assert_allclose(
        got[17], (values[17] - inputs.description.mean) / np.array(inputs.description.std), atol=1e-5
    )


def test_single_numbers_become_a_column(tmp_path):
    assert prepared([1.0, 2.0, 4.0], tmp_path)(np.array([0, 2])).shape == (2, 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["some", "text"], "embeddings"),
        ([np.ones(3), np.array([1.0, np.nan, 2.0])], "'s1' holds NaN"),
        ([np.ones(3), np.ones(4)], "'s1'"),
        ([b"no image"], "'s0' cannot be decoded"),
    ],
)
def test_values_that_a_router_cannot_take(values, said, tmp_path):
    with pytest.raises(InputError, match=said):
        prepared(values, tmp_path)


def test_a_full_disk_is_an_error_and_no_crash(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match="No space left"):
        prepared([np.ones(3)], tmp_path)
