import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.route.conftest import picture, png

from sparing.errors import InputError
from sparing.models import Model, preprocess
from sparing.route import showing
from sparing.route.corrupt import CLEAN, Corruption
from sparing.route.showing import decode_in_groups, encode, show

IDS = pa.array([f"s{i}" for i in range(6)])
PIXELS = [picture(i) for i in range(6)]
ENCODED = [png(pixels) for pixels in PIXELS]
SEVERE = Corruption("severe")


def model(takes_pixels):
    return Model("m", "d", lambda ids, _: np.full((len(ids), 2), 0.5), takes_pixels=takes_pixels)


def shown(values, models, variant=CLEAN):
    return list(show(IDS, values, models, variant))


def test_nobody_decodes_what_nobody_wants_decoded():
    values = ["not", "a", "picture", 1, None, b"x"]
    (one,) = shown(values, [model(False)])
    assert one.to(model(False)) is values
    assert one.pixels is None


def test_every_picture_is_decoded_once_for_all(monkeypatch):
    decoded = []
    monkeypatch.setattr(
        showing, "decode", lambda name, value: decoded.append(name) or preprocess.decode(name, value)
    )
    (one,) = shown(ENCODED, [model(True), model(False), model(True)])
    assert decoded == IDS.to_pylist()
    assert one.ids == decoded
    assert all(map(np.array_equal, one.to(model(True)), PIXELS))
    assert one.to(model(False)) == ENCODED


def test_corrupted_pictures_come_in_the_form_that_a_model_takes():
    expected = SEVERE.apply(IDS, ENCODED)
    (one,) = shown(ENCODED, [model(True), model(False)], SEVERE)
    assert all(map(np.array_equal, one.to(model(True)), expected))
    again = [preprocess.decode("s", value) for value in one.to(model(False))]
    assert {type(value) for value in one.to(model(False))} == {bytes}
    assert all(map(np.array_equal, again, expected))
    (one,) = shown(PIXELS, [model(False)], SEVERE)
    assert all(map(np.array_equal, one.to(model(False)), expected))


def test_parts_hold_no_more_pixels_than_fit(monkeypatch):
    groups = list(decode_in_groups(IDS.to_pylist(), ENCODED, held=2 * PIXELS[0].nbytes))
    assert [len(group) for group in groups] == [2, 2, 2]
    monkeypatch.setattr(decode_in_groups, "__defaults__", (1,))
    parts = shown(ENCODED, [model(True), model(False)], SEVERE)
    assert [part.ids for part in parts] == [[name] for name in IDS.to_pylist()]
    joined = [pixels for part in parts for pixels in part.to(model(True))]
    assert all(map(np.array_equal, joined, SEVERE.apply(IDS, ENCODED)))


def test_large_pictures_are_decoded_by_several_threads(monkeypatch):
    monkeypatch.setattr(showing, "POOL_FROM_BYTES", 0)
    (group,) = decode_in_groups(IDS.to_pylist(), ENCODED)
    assert all(map(np.array_equal, group, PIXELS))


def test_what_is_no_picture_is_named():
    broken = [*ENCODED[:4], b"broken", ENCODED[5]]
    (group,) = decode_in_groups(IDS.to_pylist(), broken)
    assert isinstance(group[4], InputError)
    assert np.array_equal(group[5], PIXELS[5])
    with pytest.raises(InputError, match="id 's4' cannot be decoded"):
        shown(broken, [model(True)])


def test_encoding_loses_nothing():
    assert np.array_equal(preprocess.decode("s", encode(PIXELS[0])), PIXELS[0])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 9000))
def test_groups_of_pictures_are_consecutive_and_bounded(heights, held):
    values = [np.full((height, 10, 3), at, dtype=np.uint8) for at, height in enumerate(heights)]
    groups = list(decode_in_groups(list(range(len(values))), values, held))
    joined = [picture for group in groups for picture in group]
    assert [int(one[0, 0, 0]) for one in joined] == list(range(len(values)))
    for group in groups:
        # Without its last picture, a group is below the limit.
        assert sum(picture.nbytes for picture in group[:-1]) < held


def files():
    """Pictures in every mode that files come in."""
    colour, grey = Image.fromarray(picture(0)), Image.fromarray(picture(1)[:, :, 0])
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
def test_a_model_sees_the_same_pixels_whether_or_not_decoding_is_shared(kind, channels, resize):
    made, format_, options = files()[kind]
    buffer = io.BytesIO()
    made.save(buffer, format_, **options)
    own = preprocess.decode("s", buffer.getvalue(), channels, resize)
    shared = preprocess.decode("s", buffer.getvalue())
    assert np.array_equal(preprocess.decode("s", shared, channels, resize), own)
    assert np.array_equal(preprocess.decode("s", encode(shared), channels, resize), own)


def test_numbers_where_pictures_are_needed_are_named_without_addresses():
    with pytest.raises(InputError, match=r"id 's' is an array of float32, where a picture is needed"):
        preprocess.decode("s", np.zeros(3, np.float32))
    with pytest.raises(InputError, match=r"cannot identify image file$"):
        preprocess.decode("s", b"nothing")
