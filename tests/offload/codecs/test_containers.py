import io

import numpy as np
import pytest
from PIL import Image

from sparing.errors import InputError
from sparing.offload.codecs import containers

STRIPPED = {"webp": 28, "jpeg": 600, "avif": 270}


@pytest.mark.parametrize("codec", containers.CODECS)
@pytest.mark.parametrize("size", [(32, 32), (16, 24), (7, 5), (64, 128)])
def test_what_is_stripped_comes_back_bit_for_bit(codec, size, images):
    image = np.asarray(Image.fromarray(images(1)[0]).resize(size[::-1]))
    for quality in (0, 40, 95):
        data = containers.encode(image, codec, quality)
        assert data is not None
        file = containers._save(image, codec, quality)
        assert len(data) + STRIPPED[codec] <= len(file)
        with Image.open(io.BytesIO(file)) as reference:
            expected = np.asarray(reference.convert("RGB"))
        np.testing.assert_array_equal(containers.decode(data, codec, *size), expected)


@pytest.mark.parametrize("codec", containers.CODECS)
def test_damaged_images_are_refused_or_have_the_agreed_size(codec, images):
    data = containers.encode(images(1)[0], codec, 60)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(data[: rng.integers(0, len(data) + 1)])
        for at in rng.integers(0, max(len(damaged), 1), 3):
            damaged[at : at + 1] = bytes([rng.integers(0, 256)])
        try:
            assert containers.decode(bytes(damaged), codec, 32, 32).shape == (32, 32, 3)
        except InputError:
            refused += 1
    assert refused > 0


def test_a_jpeg_with_a_marker_in_its_scan_is_refused(images):
    data = containers.encode(images(1)[0], "jpeg", 60)
    with pytest.raises(InputError, match="marker"):
        containers.decode(data + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff", "jpeg", 32, 32)


def test_digests_name_the_templates_and_differ_by_size():
    assert containers.digests(32, 32) == containers.digests(32, 32)
    assert set(containers.digests(32, 32)) == {"jpeg", "avif"}
    assert containers.digests(32, 32)["avif"] != containers.digests(32, 64)["avif"]


@pytest.mark.parametrize(("codec", "saved"), [("webp", {28}), ("jpeg", {624}), ("avif", {290, 291})])
def test_stripping_saves_what_the_documentation_says(codec, saved):
    image = np.random.default_rng(0).integers(90, 160, (32, 32, 3), dtype=np.uint8)
    for quality in (5, 30, 60, 90):
        file, stripped = containers._save(image, codec, quality), containers.encode(image, codec, quality)
        assert len(file) - len(stripped) in saved
