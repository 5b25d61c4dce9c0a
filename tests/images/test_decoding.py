import io

import numpy as np
import PIL
import pytest
from PIL import Image
from tests.route.conftest import image

from sparing.errors import InputError
from sparing.images import decode, encode


def files():
    """Images in every mode that files come in."""
    colour, grey = Image.fromarray(image(0)), Image.fromarray(image(1)[:, :, 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    see_through = colour.copy()
    see_through.putalpha(grey)
    deep = np.random.default_rng(0).integers(0, 1 << 16, (12, 16), dtype=np.uint16)
    lab = Image.merge("LAB", colour.split())
    return {
        "RGB": (colour, "PNG", {}),
        "L": (grey, "PNG", {}),
        "LA": (Image.merge("LA", [grey, grey]), "PNG", {}),
        "RGBA": (see_through, "PNG", {}),
        "palette": (colour.quantize(64), "PNG", {"transparency": bytes(range(64))}),
        "bits": (grey.convert("1"), "PNG", {}),
        "16 bit": (Image.fromarray(deep), "PNG", {}),
        "CMYK": (colour.convert("CMYK"), "JPEG", {}),
        "turned": (colour, "JPEG", {"exif": turned}),
        "YCbCr": (colour.convert("YCbCr"), "TIFF", {}),
        "LAB": (lab, "TIFF", {}),
    }


@pytest.mark.parametrize("kind", files())
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", [None, (5, 7)])
@pytest.mark.filterwarnings("ignore::sparing.errors.OrientationWarning")
def test_a_model_sees_the_same_pixels_whether_or_not_decoding_is_shared(kind, channels, resize):
    if kind == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the TIFF that it writes of YCbCr")
    made, format_, options = files()[kind]
    buffer = io.BytesIO()
    made.save(buffer, format_, **options)
    own = decode(buffer.getvalue(), "s", channels=channels, resize=resize)
    shared = decode(buffer.getvalue(), "s")
    assert np.array_equal(decode(shared, "s", channels=channels, resize=resize), own)
    assert np.array_equal(decode(encode(shared), "s", channels=channels, resize=resize), own)


def test_encoding_loses_nothing():
    assert np.array_equal(decode(encode(image(0)), "s"), image(0))


def test_numbers_where_images_are_needed_are_named_without_addresses():
    with pytest.raises(InputError, match=r"id 's' is an array of float32, where an image is needed"):
        decode(np.zeros(3, np.float32), "id 's'")
    with pytest.raises(InputError, match=r"cannot identify image file$"):
        decode(b"nothing", "s")


def test_only_the_formats_that_are_accepted_are_decoded():
    buffer = io.BytesIO()
    Image.fromarray(image(0)).save(buffer, "BMP")
    assert np.array_equal(decode(buffer.getvalue(), "s"), image(0))
    with pytest.raises(InputError, match="the image of s cannot be decoded: cannot identify image file"):
        decode(buffer.getvalue(), "s", formats=("PNG", "JPEG"))


def test_resizing_averages_what_a_pixel_covers():
    """Half the size of stripes is their mean; taking every second pixel would see one colour."""
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    small = decode(stripes, "s", resize=(16, 16))
    assert np.abs(small[:, 1:-1].astype(int) - 100).max() <= 1
