import pytest

from sparing.errors import InputError
from sparing.offload import Geometry
from sparing.offload.wire.agreement import agreement, check_agreement

GEOMETRY = Geometry(32, 32, 4)


def test_edge_and_server_notice_when_they_differ():
    here = {**agreement(GEOMETRY), "classes": 10}
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
