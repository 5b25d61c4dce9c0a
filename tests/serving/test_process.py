"""A model in a process of its own: its answers, and what happens when it hangs, dies or does not start."""

import functools
import os
import subprocess
import sys
import time

import pytest

from sparing.errors import InputError, ModelError
from sparing.serving.batching import OverloadedError
from sparing.serving.process import ModelProcess


class Doubler:
    """What a process loads; it counts its batches, to show that a new one begins again."""

    def __init__(self, offset=0):
        if offset == "missing":
            raise ModelError("there is no such model")
        if offset == "slow":
            time.sleep(60)
        if offset == "dead":
            os._exit(4)
        self.offset, self.batches = offset, 0

    def __call__(self, batch):
        self.batches += 1
        if batch == "hang":
            time.sleep(600)
        if batch == "die":
            os._exit(3)
        if batch == "exit":
            sys.exit("done")
        if batch == "refuse":
            raise InputError("not this one")
        if batch == "raise":
            raise KeyError("secret")
        return [2 * each + self.offset for each in batch], self.batches, os.getpid()


@pytest.fixture
def started():
    made = []

    def start(offset=0, **limits):
        process = ModelProcess(functools.partial(Doubler, offset), **{"batch_seconds": 20, **limits})
        made.append(process)
        process.start()
        return process

    yield start
    for process in made:
        process.stop()


def again(process):
    """Ask until the process is back."""
    for _ in range(400):
        try:
            return process([1])
        except OverloadedError:
            time.sleep(0.05)
    raise AssertionError("it does not come back")


def test_batches_are_answered_in_another_process(started):
    process = started(offset=5)
    answers, batches, pid = process([1, 2])
    assert (answers, batches) == ([7, 9], 1)
    assert pid != os.getpid()
    assert process([3])[1:] == (2, pid)
    assert process.ready
    process.stop()
    assert not process.ready
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_errors_are_of_their_class_and_the_process_stays(started):
    process = started()
    with pytest.raises(InputError, match="not this one"):
        process("refuse")
    with pytest.raises(RuntimeError, match="KeyError"):
        process("raise")
    with pytest.raises(RuntimeError, match="SystemExit"):
        process("exit")
    assert process([1])[1] == 4
    assert process.restarts == 0


@pytest.mark.parametrize(("what", "message"), [("hang", "more than 0.5 s and was stopped"), ("die", "ended")])
def test_one_that_hangs_or_dies_is_replaced(started, what, message):
    process = started(batch_seconds=0.5)
    before = process([1])[2]
    with pytest.raises(OverloadedError, match=message):
        process(what)
    answers, batches, pid = again(process)
    assert (answers, batches) == ([2], 1)
    assert pid != before
    assert process.restarts == 1


def test_one_that_was_killed_from_outside_is_replaced(started):
    process = started()
    os.kill(process([1])[2], 9)
    assert again(process)[0] == [2]


@pytest.mark.parametrize(
    ("offset", "message"),
    [("missing", "no such model"), ("slow", "took more than 0.5 s"), ("dead", "ended while it was loading")],
)
def test_what_keeps_it_from_starting_is_named(started, offset, message):
    with pytest.raises(ModelError, match=message):
        started(offset, start_seconds=0.5 if offset == "slow" else 30)


def test_impossible_limits_are_refused():
    with pytest.raises(InputError, match="more than 0 seconds"):
        ModelProcess(Doubler, batch_seconds=0)


PARENT = """
import functools, os, sys
from sparing.serving.process import ModelProcess
from tests.serving.test_process import Doubler

if __name__ == "__main__":
    process = ModelProcess(functools.partial(Doubler, 0), batch_seconds=60)
    process.start()
    print(process([1])[2], flush=True)
    os.kill(os.getpid(), 9)
"""


def test_it_ends_with_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env, check=False)
    pid = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the process is still there")
