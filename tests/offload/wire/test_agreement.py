import pytest

from sparing.errors import InputError
from sparing.offload import Geometry
from sparing.offload.wire.agreement import check_agreement, terms_of

GEOMETRY = Geometry(32, 32, 4)


def test_edge_and_server_notice_when_they_differ():
    here = {**terms_of(GEOMETRY), "classes": 10}
    check_agreement(here, GEOMETRY, "avif", 10)
    for key in ("version", "height", "width", "patch", "classes"):
        with pytest.raises(InputError, match=f"differ in {key}"):
            check_agreement({**here, key: 99}, GEOMETRY, "", 10)
    other = {**here, "templates": {**here["templates"], "avif": "0" * 16}}
    check_agreement(other, GEOMETRY, "webp", 10)
    with pytest.raises(InputError, match="avif library"):
        check_agreement(other, GEOMETRY, "avif", 10)
    with pytest.raises(InputError, match="jpeg library"):
        check_agreement({**here, "templates": None}, GEOMETRY, "jpeg", 10)


def test_a_codec_that_the_server_lacks_is_named():
    here = {**terms_of(GEOMETRY), "classes": 10}
    with pytest.raises(InputError, match="does not read the codec 'jpeg'"):
        check_agreement({**here, "codecs": ["webp"]}, GEOMETRY, "jpeg", 10)
    with pytest.raises(InputError, match="does not read the codec 'jpeg'"):
        check_agreement({**here, "codecs": None}, GEOMETRY, "jpeg", 10)
    check_agreement({**here, "codecs": ["webp"]}, GEOMETRY, "", 10)
    del here["codecs"]  # a server of the first release
    check_agreement(here, GEOMETRY, "jpeg", 10)
    with pytest.raises(InputError, match="does not read the codec 'later'"):
        check_agreement(here, GEOMETRY, "later", 10)
