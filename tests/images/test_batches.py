import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.route.conftest import image, png

from sparing.errors import InputError
from sparing.images import batches, decode_batch, decode_in_groups

PIXELS = [image(i) for i in range(6)]
ENCODED = [png(pixels) for pixels in PIXELS]


def jpeg(seed):
    buffer = io.BytesIO()
    Image.fromarray(image(seed, 80, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 9000))
def test_groups_of_images_are_consecutive_and_bounded(heights, held):
    values = [np.full((height, 10, 3), at, dtype=np.uint8) for at, height in enumerate(heights)]
    groups = list(decode_in_groups(list(range(len(values))), values, held))
    joined = [image for group in groups for image in group]
    assert [int(one[0, 0, 0]) for one in joined] == list(range(len(values)))
    for group in groups:
        # Without its last image, a group is below the limit.
        assert sum(image.nbytes for image in group[:-1]) < held


def test_large_images_are_decoded_by_several_threads(monkeypatch):
    monkeypatch.setattr(batches, "POOL_FROM_BYTES", 0)
    (group,) = decode_in_groups(range(6), ENCODED)
    assert all(map(np.array_equal, group, PIXELS))


def test_a_batch_is_the_same_by_one_thread_and_by_several(monkeypatch):
    values = [jpeg(seed) for seed in range(9)]
    serial = decode_batch(range(9), values, channels=3, resize=None)
    monkeypatch.setattr(batches, "POOL_FROM_BYTES", 0)
    assert np.array_equal(decode_batch(range(9), values, channels=3, resize=None), serial)
    with pytest.raises(InputError, match="image of id 4 cannot be decoded"):
        decode_batch(range(9), [*values[:4], values[4][:900], *values[5:]], channels=3, resize=None)
