"""What every codec of the registry promises, so that a new one is tested as soon as it is named."""

import numpy as np
import pytest

from sparing.errors import InputError
from sparing.offload import Geometry
from sparing.offload.codecs import CODECS, codec_named, codec_numbered
from sparing.offload.schemes import best_fits
from sparing.offload.wire.payload import codec_of, unpack, whole_head

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))


def test_numbers_of_payloads_that_exist_stay():
    first = {"webp": 0, "jpeg": 1, "avif": 2, "dct8": 3, "dct16": 4, "dct32": 5}
    assert {name: codec.number for name, codec in CODECS.items() if codec.number < 6} == first
    assert len({codec.number for codec in CODECS.values()}) == len(CODECS)
    assert all(codec_numbered(codec.number) is codec_named(name) for name, codec in CODECS.items())
    with pytest.raises(InputError, match="one of webp, jpeg"):
        codec_named("gif")
    with pytest.raises(InputError, match="unknown codec"):
        codec_numbered(255)


@every_codec
def test_an_image_comes_back_better_the_higher_the_quality(codec, images):
    image = images(1)[0]
    encode = codec.encoder(image)
    errors, sizes = [], []
    for quality in (0, codec.qualities // 2, codec.qualities - 1):
        data = encode(quality)
        assert data is not None
        read = codec.decode(data, 32, 32)
        assert read.shape == (32, 32, 3)
        assert read.dtype == np.uint8
        errors.append(np.abs(read.astype(int) - image).mean())
        sizes.append(len(data))
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert errors[-1] < 12  # half of the colour is left out, and these images are noisy


@every_codec
def test_damaged_images_are_refused_or_have_the_agreed_size(codec, images):
    data = best_fits(images(1)[0], codec.name, [700])[0]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data[: rng.integers(0, len(data) + 1)])
        for at in rng.integers(0, max(len(damaged), 1), 3):
            damaged[at : at + 1] = bytes([rng.integers(0, 256)])
        try:
            assert codec.decode(bytes(damaged), 32, 32).shape == (32, 32, 3)
        except InputError:
            refused += 1
    assert refused > 0


@every_codec
def test_a_payload_names_its_codec(codec, images, geometry):
    payload = whole_head(codec.name, 8) + best_fits(images(1)[0], codec.name, [2000])[0]
    assert codec_of(payload) == codec.name
    assert len(unpack(payload, geometry).patches) == geometry.patches
    with pytest.raises(InputError):
        unpack(payload[: len(whole_head(codec.name, 8))], Geometry(64, 64, 4))
