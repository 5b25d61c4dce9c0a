import numpy as np
import pyarrow as pa
import pytest
from tests.route.conftest import image, png

from sparing.errors import InputError
from sparing.images import CLEAN, Corruption, batches, decode, decode_in_groups
from sparing.models import Model
from sparing.route.showing import show

IDS = pa.array([f"s{i}" for i in range(6)])
PIXELS = [image(i) for i in range(6)]
ENCODED = [png(pixels) for pixels in PIXELS]
SEVERE = Corruption("severe")


def model(takes_pixels):
    return Model("m", "d", lambda ids, _: np.full((len(ids), 2), 0.5), takes_pixels=takes_pixels)


def shown(values, models, variant=CLEAN):
    return list(show(IDS, values, models, variant))


def test_nobody_decodes_what_nobody_wants_decoded():
    values = ["not", "a", "image", 1, None, b"x"]
    (one,) = shown(values, [model(False)])
    assert one.to(model(False)) is values
    assert one.pixels is None


def test_every_image_is_decoded_once_for_all(monkeypatch):
    decoded = []
    monkeypatch.setattr(batches, "decode", lambda value, what: decoded.append(what) or decode(value, what))
    (one,) = shown(ENCODED, [model(True), model(False), model(True)])
    assert one.ids == IDS.to_pylist()
    assert decoded == [f"id {name!r}" for name in one.ids]
    assert all(map(np.array_equal, one.to(model(True)), PIXELS))
    assert one.to(model(False)) == ENCODED


def test_corrupted_images_come_in_the_form_that_a_model_takes():
    expected = SEVERE.apply(IDS, ENCODED)
    (one,) = shown(ENCODED, [model(True), model(False)], SEVERE)
    assert all(map(np.array_equal, one.to(model(True)), expected))
    again = [decode(value, "s") for value in one.to(model(False))]
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


def test_what_is_no_image_is_named():
    broken = [*ENCODED[:4], b"broken", ENCODED[5]]
    (group,) = decode_in_groups(IDS.to_pylist(), broken)
    assert isinstance(group[4], InputError)
    assert np.array_equal(group[5], PIXELS[5])
    with pytest.raises(InputError, match="id 's4' cannot be decoded"):
        shown(broken, [model(True)])
