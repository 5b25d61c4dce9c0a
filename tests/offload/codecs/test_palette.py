import numpy as np
import pytest

from sparing.offload import EdgeOutput, Geometry, Scheme
from sparing.offload.codecs.palette import _COLOURS, Palette
from sparing.offload.wire.payload import unpack


def screen(side=64):
    """A drawing of five flat colours with hard edges."""
    image = np.full((side, side, 3), 250, np.uint8)
    image[8:20, 4:60] = (20, 60, 160)
    image[24:28, 4:50] = (10, 10, 10)
    image[32:36, 4:40] = (10, 10, 10)
    image[44:60, 30:60] = (200, 30, 30)
    image[46:58, 32:44] = (240, 200, 40)
    return image


def test_the_highest_quality_is_exact_even_of_noise():
    noise = np.random.default_rng(0).integers(0, 256, (17, 31, 3), np.uint8)
    data = Palette().encoder(noise)(Palette.qualities - 1)
    np.testing.assert_array_equal(Palette().decode(data, 17, 31), noise)


@pytest.mark.parametrize("quality", range(len(_COLOURS)))
def test_the_quality_is_the_number_of_colours(quality):
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    read = Palette().decode(Palette().encoder(noise)(quality), 32, 32)
    assert len(np.unique(read.reshape(-1, 3), axis=0)) <= _COLOURS[quality]


def test_a_drawing_is_exact_in_fewer_bytes_than_a_photograph_codec_needs_to_be_near():
    image = screen()
    geometry = Geometry(64, 64, 8)
    seen = EdgeOutput(np.zeros((1, 2)), np.ones((1, 64)), np.ones((1, 64, 1)))
    errors = {}
    for name in ("palette", "webp", "jpeg", "dct16"):
        payload = Scheme.parse(f"whole:{name}").encode(image[None], seen, geometry, [256])[0][0]
        assert len(payload) <= 256
        read = unpack(payload, geometry).patches.astype(int)
        errors[name] = np.abs(read - geometry.cut(image[None])[0]).mean()
    assert errors["palette"] == 0
    assert min(error for name, error in errors.items() if name != "palette") > 1
