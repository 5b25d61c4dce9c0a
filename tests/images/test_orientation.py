"""EXIF orientation: applied, ignored, or warned about."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from sparing.errors import InputError, OrientationWarning
from sparing.images import decode
from sparing.models.description import read_description


def photograph(orientation, kind="JPEG"):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_upright_is_what_pillow_shows(orientation, kind):
    data = photograph(orientation, kind)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(decode(data, "x", upright=True), shown)
    assert np.array_equal(decode(data, "x", upright=False), stored)


def test_nothing_said_warns_where_it_matters():
    with pytest.warns(
        OrientationWarning, match=r"image of id 7.*EXIF orientation 6.*upright = true or false"
    ):
        assert decode(photograph(6), "id 7").shape == (8, 16, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(photograph(1), "id 7")
        decode(photograph(6), "id 7", upright=False)


def test_resizing_comes_after_turning():
    assert decode(photograph(6), "x", resize=(4, 2), upright=True).shape == (4, 2, 3)


def test_the_description_says_it(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text('[input]\ndecode = "image"\nupright = true\n')
    assert read_description(path).input.upright is True
    path.write_text('[input]\ndecode = "image"\n')
    assert read_description(path).input.upright is None
    path.write_text("[input]\nupright = true\n")
    with pytest.raises(InputError, match="upright is for images"):
        read_description(path)
