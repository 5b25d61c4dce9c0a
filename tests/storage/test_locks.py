import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from sparing.errors import CacheError, CacheLockedError, LockedError, StorageError
from sparing.storage import locks
from sparing.storage.locks import write_lock

HOLD = """
import sys
from sparing.storage.locks import write_lock
from pathlib import Path
with write_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

# The helper that the holder forks says that it runs, and outlives it.
FORK = """
import os, sys, time
from sparing.storage.locks import write_lock
from pathlib import Path
with write_lock(Path(sys.argv[1])):
    helper = os.fork()
    if not helper:
        print("helping", os.getpid(), flush=True)
        time.sleep(600)
    sys.stdin.readline()
"""

# The helper unwinds through the block, as `sys.exit` and an exception do.
UNWIND = """
import os, sys
from sparing.storage.locks import write_lock
from pathlib import Path
with write_lock(Path(sys.argv[1])):
    if not os.fork():
        sys.exit(0)
    os.wait()
    print("unwound", flush=True)
    sys.stdin.readline()
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@contextlib.contextmanager
def running(code, path):
    """A process that prints a line once it holds the lock; it ends when its input does, or is killed."""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


def test_another_process_is_named_until_it_ends(tmp_path):
    path = tmp_path / "work" / "lock"
    with running(HOLD, path) as (process, said):
        assert said == ["held"]
        message = (
            rf"another process \(pid {process.pid}\) is writing to this thing: wait for it, or stop it; "
        )
        with pytest.raises(LockedError, match=message), write_lock(path, "this thing"):
            pytest.fail("both hold it")
        with pytest.raises(LockedError, match=str(process.pid)), write_lock(path):
            pytest.fail("the message of the first try has cost the holder its name, or its lock")
        process.communicate("\n")
        with write_lock(path):
            assert path.exists()
    assert not path.exists()


def test_a_killed_process_holds_nothing(tmp_path):
    with running(HOLD, tmp_path / "lock") as (process, _):
        process.kill()
        process.wait()
        with write_lock(tmp_path / "lock"):
            pass


@needs_fork
def test_the_lock_does_not_outlive_its_holder_in_a_helper(tmp_path):
    path = tmp_path / "lock"
    with running(FORK, path) as (process, said):
        helper = int(said[1])
        try:
            with pytest.raises(LockedError, match=rf"pid {process.pid}"), write_lock(path):
                pytest.fail("the holder lives")
            process.kill()
            process.wait()
            os.kill(helper, 0)  # the helper lives
            with write_lock(path):
                pass
        finally:
            os.kill(helper, signal.SIGKILL)


@needs_fork
def test_a_helper_that_unwinds_leaves_the_lock_held(tmp_path):
    path = tmp_path / "lock"
    with running(UNWIND, path) as (process, said):
        assert said == ["unwound"]
        with pytest.raises(LockedError, match=rf"pid {process.pid}"), write_lock(path):
            pytest.fail("the holder lives")


def test_one_holder_in_a_process(tmp_path):
    path = tmp_path / "lock"
    with write_lock(path), pytest.raises(LockedError, match=rf"pid {os.getpid()}"), write_lock(path):
        pytest.fail("both hold it")
    with write_lock(path):
        pass


def test_an_error_of_the_caller_s_own_class(tmp_path):
    path = tmp_path / "lock"
    with write_lock(path), pytest.raises(CacheError), write_lock(path, "this cache", CacheLockedError):
        pytest.fail("both hold it")


def test_a_lock_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"), write_lock(tmp_path / "file" / "lock"):
        pytest.fail("held")


def test_a_file_that_an_earlier_version_left_is_no_lock(tmp_path):
    path = tmp_path / "lock"
    path.write_text("123456")
    with write_lock(path), pytest.raises(LockedError, match=rf"pid {os.getpid()}"), write_lock(path):
        pytest.fail("both hold it")


def test_on_windows_the_holder_is_read_past_the_locked_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_WINDOWS", True)
    path = tmp_path / "lock"
    with write_lock(path):
        with pytest.raises(LockedError, match=rf"pid {os.getpid()}\)"), write_lock(path):
            pytest.fail("both hold it")
        assert path.read_bytes()[1:] == str(os.getpid()).encode()


def _count(path, total, times):
    for _ in range(times):
        while True:
            try:
                with write_lock(path):
                    total.write_text(str(int(total.read_text()) + 1))
                break
            except LockedError:
                pass


def test_no_update_is_lost_between_processes(tmp_path):
    # The lock file is removed at the end of every hold: nobody may hold a file that is gone.
    total = tmp_path / "total"
    total.write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(tmp_path / "lock", total, 200)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert total.read_text() == "600"
