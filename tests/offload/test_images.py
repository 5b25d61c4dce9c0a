import io

import numpy as np
import pytest
from PIL import Image

from sparing.errors import InputError
from sparing.offload import read_image


def encoded(size, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(buffer, kind)
    return buffer.getvalue()


def test_images_are_read_and_brought_to_size(geometry):
    for kind in ("PNG", "JPEG", "WEBP"):
        image = read_image(encoded((100, 40), kind), geometry)
        assert image.shape == (32, 32, 3)
        assert abs(int(image[5, 5, 0]) - 200) < 8


def test_what_is_no_image_is_refused(geometry):
    for bad in (b"", b"not an image", encoded((50, 50))[:60], "text", encoded((20, 20), "BMP")):
        with pytest.raises(InputError, match="sample 's1'"):
            read_image(bad, geometry, what="sample 's1'")
    with pytest.raises(InputError, match=r"decompression bomb"):
        read_image(encoded((20000, 20000)), geometry)


def test_a_damaged_image_that_a_library_gives_up_on_is_refused(geometry):
    shades = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)
    buffer = io.BytesIO()
    Image.fromarray(shades).save(buffer, "AVIF")
    data = bytearray(buffer.getvalue())
    data[data.index(b"mdat") + 4] = 0
    with pytest.raises(RuntimeError), Image.open(io.BytesIO(data)) as opened:
        opened.convert("RGB")
    with pytest.raises(InputError, match="cannot be decoded"):
        read_image(bytes(data), geometry)


def test_resampling_is_bicubic_from_the_decoded_pixels(geometry):
    drawn = np.random.default_rng(2).integers(0, 256, (50, 70, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(drawn, "RGBA").save(buffer, "PNG")
    wanted = Image.fromarray(drawn[:, :, :3]).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read_image(buffer.getvalue(), geometry), np.asarray(wanted))
