import os
import platform

from sparing.machine import describe


def test_the_machine_is_described_without_its_name():
    words = describe()
    assert f"{len(os.sched_getaffinity(0))} cores" in words
    assert platform.python_version() in words
    assert platform.node() not in words
