import io

import numpy as np
import pytest
from PIL import Image

from sparing.errors import InputError
from sparing.offload.codecs import CODECS
from sparing.offload.codecs.stripped import StrippedFile

SAVED = {"webp": {28}, "jpeg": {624}, "avif": {290, 291}, "palette": {25, 26}}
"""Bytes that the documentation says are left out, of a file of 32x32 pixels."""

FILES = [codec for codec in CODECS.values() if isinstance(codec, StrippedFile)]


@pytest.mark.parametrize("codec", FILES, ids=lambda codec: codec.name)
@pytest.mark.parametrize("size", [(32, 32), (16, 24), (7, 5), (64, 128)])
def test_what_is_stripped_comes_back_bit_for_bit(codec, size, images):
    image = np.asarray(Image.fromarray(images(1)[0]).resize(size[::-1]))
    for quality in (0, codec.qualities // 2, codec.qualities - 1):
        data = codec.encoder(image)(quality)
        file = codec.save(image, quality)
        assert data is not None
        assert len(data) + 20 <= len(file)
        with Image.open(io.BytesIO(file)) as reference:
            expected = np.asarray(reference.convert("RGB"))
        np.testing.assert_array_equal(codec.decode(data, *size), expected)


@pytest.mark.parametrize("name", SAVED)
def test_stripping_saves_what_the_documentation_says(name):
    image = np.random.default_rng(0).integers(90, 160, (32, 32, 3), dtype=np.uint8)
    codec = CODECS[name]
    for quality in range(5, codec.qualities, 10):
        assert len(codec.save(image, quality)) - len(codec.encoder(image)(quality)) in SAVED[name]


def test_a_jpeg_with_a_marker_in_its_scan_is_refused(images):
    jpeg = CODECS["jpeg"]
    data = jpeg.encoder(images(1)[0])(60)
    with pytest.raises(InputError, match="marker"):
        jpeg.decode(data + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff", 32, 32)


def test_templates_are_the_same_every_time_and_differ_by_size():
    for name in ("jpeg", "avif"):
        codec = CODECS[name]
        assert codec.template(32, 32) == codec.template(32, 32)
        assert codec.template(32, 32) != codec.template(32, 64)
    assert CODECS["webp"].template(32, 32) == b""
