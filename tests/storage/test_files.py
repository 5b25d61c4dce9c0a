import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from msgspec import Struct

from sparing.errors import CacheError, StorageError
from sparing.storage import files
from sparing.storage.arrow import read_arrow, read_noted, write_arrow
from sparing.storage.files import creating, make_folder, replacing, reserve, write_bytes, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    write_text(tmp_path / "a", "é\nb\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\nb\n"
    write_bytes(str(tmp_path / "a"), b"\x00\r\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\r\n"
    assert names(tmp_path) == ["a"]


def test_a_table_comes_back(tmp_path):
    table = pa.table({"x": [1, 2], "y": ["a", None]}).replace_schema_metadata({"k": "v"})
    with replacing(tmp_path / "t.arrow") as draft:
        write_arrow(draft, table)
    assert read_arrow(tmp_path / "t.arrow").equals(table, check_metadata=True)


class Note(Struct):
    rows: int


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "no note", "bad note"])
def test_a_damaged_table_is_one_error_with_its_name(tmp_path, damage):
    path = tmp_path / "t.arrow"
    note = {"no note": None, "bad note": {"note": '{"row": 1}'}}.get(damage, {"note": '{"rows": 1}'})
    table = pa.table({"x": [1, 2]}).replace_schema_metadata(note)
    write_arrow(path, table)
    if "note" not in damage:
        assert read_noted(path, "note", Note) == (table, Note(1))
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "other":
        path.write_bytes(b"hello")
    with pytest.raises(CacheError, match=r"t\.arrow.*(damaged|unknown key 'row')"):
        read_noted(path, "note", Note, CacheError)


def test_readers_see_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_an_error_in_the_block_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as draft:  # noqa: PT012
        draft.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from sparing.storage.files import replacing
with replacing(sys.argv[1]) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "new")  # the killed writer's draft is in nobody's way
    assert path.read_text() == "new"


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_is_one_error_and_leaves_the_old_file(tmp_path, monkeypatch, step):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a"
    path.write_text("old")
    with monkeypatch.context() as patched:
        owner, name = {"write": (Path, "write_bytes"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[
            step
        ]
        patched.setattr(owner, name, full)
        with pytest.raises(StorageError) as raised:
            write_text(path, "new")
    assert str(raised.value) == (
        f"{path} could not be written: No space left on device. Nothing was changed; free some space "
        "or check the permissions, then run the same command again"
    )
    assert isinstance(raised.value.__cause__, OSError)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_an_error_of_the_caller_s_own_class(tmp_path):
    with pytest.raises(CacheError, match=r"none.a could not be written: No such file or directory\."):
        write_text(tmp_path / "none" / "a", "x", CacheError)
    with pytest.raises(StorageError, match="Is a directory"):
        write_text(tmp_path, "x")
    assert tmp_path.is_dir()


def test_what_another_file_is_to_blame_for_names_it(tmp_path):
    message = r"a could not be written: No such file .*elsewhere.b"
    with pytest.raises(StorageError, match=message), replacing(tmp_path / "a"):
        (tmp_path / "elsewhere" / "b").read_text()


def test_two_writers_never_share_a_draft(tmp_path):
    drafts, both = [], threading.Barrier(2, timeout=30)

    def write(text):
        with replacing(tmp_path / "a") as draft:
            draft.write_text(text)
            drafts.append(draft)
            both.wait()  # both are in the middle

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drafts)) == 2
    assert (tmp_path / "a").read_text() in ("one", "two")
    assert names(tmp_path) == ["a"]


def test_a_name_as_long_as_the_system_allows(tmp_path):
    write_text(tmp_path / ("x" * 255), "text")
    assert names(tmp_path) == ["x" * 255]


@pytest.mark.skipif(os.name == "nt", reason="links and devices of POSIX")
def test_links_stay_and_devices_are_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "x"
    (tmp_path / "null").symlink_to(os.devnull)
    write_text(tmp_path / "null", "x")
    assert Path(os.devnull).is_char_device()
    assert names(tmp_path) == ["link", "null", "real"]


def test_a_folder_appears_whole_with_its_parents(tmp_path):
    path = tmp_path / "a" / "b" / "c"
    with creating(path) as draft:
        (draft / "sub").mkdir(parents=True)
        (draft / "sub" / "file").write_text("x")
        assert not path.exists()
    assert (path / "sub" / "file").read_text() == "x"
    assert names(path.parent) == ["c"]
    with pytest.raises(ZeroDivisionError), creating(tmp_path / "d") as draft:  # noqa: PT012
        draft.mkdir()
        1 / 0  # noqa: B018
    assert names(tmp_path) == ["a"]


def test_a_folder_that_another_made_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(CacheError, match="another process"), creating(path, CacheError) as draft:  # noqa: PT012
        draft.mkdir()
        path.mkdir()
        (path / "theirs").write_text("x")
    assert names(tmp_path / "a") == ["theirs"]
    assert names(tmp_path) == ["a"]


def test_every_new_name_is_flushed_with_its_folder(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "sync", flushed.append)
    make_folder(tmp_path / "a" / "b")
    assert set(flushed) == {tmp_path, tmp_path / "a"}
    flushed.clear()
    (tmp_path / "a" / "b" / "old").write_text("")
    known = files.files_below(tmp_path)
    (tmp_path / "a" / "c").mkdir()
    (tmp_path / "a" / "c" / "new").write_text("")
    files.sync_tree(tmp_path, known)
    assert flushed[0] == tmp_path / "a" / "c" / "new"
    assert set(flushed[1:]) == {tmp_path / "a" / "c", tmp_path / "a", tmp_path}


@pytest.mark.parametrize("posix", [True, False])
def test_reserving_keeps_the_content(tmp_path, monkeypatch, posix):
    if not posix:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.write(b"head")
        file.seek((3 << 20) + 5)
        file.write(b"tail")
    before = path.read_bytes()
    reserve(path)
    assert path.read_bytes() == before
    if hasattr(path.stat(), "st_blocks"):
        assert path.stat().st_blocks * 512 >= len(before)


def _write_many(path, text):
    for _ in range(50):
        write_text(path, text)


def test_processes_that_write_the_same_file_leave_one_of_their_texts(tmp_path):
    context = multiprocessing.get_context("spawn")
    texts = [letter * 100_000 for letter in "ab"]
    processes = [context.Process(target=_write_many, args=(tmp_path / "f", text)) for text in texts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "f").read_text() in texts
    assert names(tmp_path) == ["f"]


def test_flushing_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_WINDOWS", True)
    opened = []
    os_open = os.open

    def noted(path, flags, *mode):
        opened.append((path, flags))
        return os_open(path, flags, *mode)

    with replacing(tmp_path / "a") as draft:
        draft.write_text("x")
        monkeypatch.setattr(os, "open", noted)
    assert opened == [(draft, os.O_RDWR)]
    assert (tmp_path / "a").read_text() == "x"


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    script = """
import os, signal, sys
from sparing.storage.files import creating, replacing, scratch
from pathlib import Path
with scratch() as spool, replacing("out.parquet") as draft, creating(Path("folder")) as folder:
    (spool / "chunk").write_bytes(bytes(10)), draft.write_bytes(bytes(10)), folder.mkdir()
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""
    keep = tmp_path / ".mine.other-machine-1.0123456789ab.tmp"
    keep.touch()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for how in ("kill", "end"):
        subprocess.run([sys.executable, "-c", script, how], cwd=tmp_path, env=environment, check=how == "end")
        left = sorted(path.name for path in tmp_path.iterdir())
        if how == "kill":
            assert len(left) == 4, left
    assert left == [keep.name, "folder", "out.parquet"]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path):
    with replacing(tmp_path / "a") as draft:
        draft.touch()
        script = "from sparing.storage.files import write_text; write_text('a', 'theirs')"
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
        assert draft.exists()
