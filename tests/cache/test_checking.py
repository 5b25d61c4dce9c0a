"""A damaged cache is reported as damaged, and repair brings back its last whole version."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.cache import Cache, ModelInfo, check, export, repair
from sparing.cache.checking import write_missing
from sparing.cache.rows import Rows
from sparing.errors import CacheError, SparingError

IDS = [f"s{i:02d}" for i in range(40)]


def probs(seed):
    return np.random.default_rng(seed).dirichlet(np.ones(4), len(IDS)).astype(np.float32)


def refreshed(cache, seed, rows):
    """Write another round of some rows, as a refresh does."""
    metadata = cache.metadata
    from dataclasses import replace

    later = replace(metadata, round=metadata.round + 1).with_model(ModelInfo("new", "d:new"))
    part = Rows(
        ids=pa.array(IDS[:rows]),
        stored=probs(seed)[:rows],
        labels=np.full(rows, -1),
        models=np.full(rows, 1),
        rounds=np.full(rows, later.round),
        scores=np.zeros(rows, np.float32),
    )
    cache.refresh_rows([part], lambda: later, lambda _: {"op": "refresh", "digests": {"new": "d:new"}})


@pytest.fixture
def made(tmp_path):
    """A cache of two rounds, a deletion and an append."""
    cache = Cache.create(
        tmp_path / "c.lance", [(pa.array(IDS), probs(0), np.arange(40) % 4)], ModelInfo("old", "d:old")
    )
    refreshed(cache, 1, 20)
    cache.delete(["s03", "s30"])
    cache.append([(pa.array(["x1"]), probs(2)[:1], None)], ModelInfo("old", "d:old"))
    return cache.path


def exported(path, to, version=None):
    out = Path(to) / "out.parquet"
    export(Cache.open(path, version), out)
    return pq.read_table(out)


def test_a_whole_cache_is_whole(made):
    found = check(made)
    assert found.problems == {}
    assert found.unlisted == ()
    assert [version.number for version in found.versions] == [1, 2, 3, 4]
    assert found.last_whole == 4
    assert found.checked > 8
    before = sorted(made.rglob("*"))
    assert repair(made)[1:] == (4, [])
    assert sorted(made.rglob("*")) == before


@pytest.mark.parametrize(
    "kind", ["data/*.lance", "_deletions/*", "_versions/*.manifest", "_transactions/*.txn"]
)
def test_no_flipped_bit_changes_a_row_unseen(made, tmp_path, kind, monkeypatch):
    wanted = exported(made, tmp_path)
    rng = np.random.default_rng(len(kind))
    seen = 0
    for file in sorted(made.glob(kind)):
        whole = file.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), 12):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << (bit % 8)
            file.write_bytes(damaged)
            monkeypatch.setattr("sparing.cache.checking._verified", {})
            name = file.relative_to(made).as_posix()
            assert check(made).problems == {name: "has another content than was written"}
            told = None
            try:
                assert exported(made, tmp_path).equals(wanted)  # a file of an older version
            except SparingError as error:
                told = str(error)
                seen += 1
            assert told is None or ("is damaged" in told and "sparing cache repair" in told)
        file.write_bytes(whole)
    assert seen
    assert check(made).problems == {}


def test_a_damaged_record_is_found_and_costs_no_version(made, tmp_path):
    for seed in range(3):
        refreshed(Cache.open(made), seed, 5)
    file = next((made / "_record").glob("*.json"))
    file.write_bytes(file.read_bytes()[:-2] + b"  ")
    found = check(made)
    assert found.problems == {file.relative_to(made).as_posix(): "has another content than was written"}
    assert found.last_whole == 7
    assert exported(made, tmp_path).num_rows == 39


def test_a_torn_newest_version_says_so_and_repair_goes_back(made, tmp_path):
    third = exported(made, tmp_path, 3)
    newest = min((made / "_versions").glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:30])
    with pytest.raises(CacheError, match=r"is damaged: .*manifest.*`sparing cache repair") as raised:
        Cache.open(made)
    assert "import" not in str(raised.value)
    assert Cache.open(made, 3).version == 3
    found, version, moved = repair(made)
    assert [each.number for each in found.versions if each.problems] == [4]
    assert version == 3
    assert all(path.exists() and "damaged" in path.parts for path in moved)
    assert exported(made, tmp_path).equals(third)
    # It goes on: the next commit is whole again.
    cache = Cache.open(made)
    refreshed(cache, 5, 3)
    assert check(made).problems == {}
    assert Cache.open(made).version == 4


def test_a_missing_data_file_is_damage_and_repair_finds_the_version_without_it(made, tmp_path):
    first = exported(made, tmp_path, 1)
    only_newer = {name for v in check(made).versions[1:] for name in v.files if name.startswith("data/")}
    only_newer -= set(check(made).versions[0].files)
    for name in only_newer:
        (made / name).unlink()
    with pytest.raises(CacheError, match=r"data/.* is missing"):
        Cache.open(made)
    assert repair(made)[1] == 1
    assert exported(made, tmp_path).equals(first)
    assert Cache.open(made).metadata.round == 0


def test_a_cache_without_a_whole_version_is_left_alone(made):
    for file in made.glob("data/*.lance"):
        file.write_bytes(file.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(CacheError, match=r"no whole version left: data/.*Nothing was changed"):
        repair(made)
    after = {path: path.read_bytes() for path in made.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before


def test_a_cache_of_an_earlier_version_has_no_checksums_until_they_are_written(made):
    (made / "_sparing" / "checksums").unlink()
    Cache.open(made).verify()
    found = check(made)
    assert found.problems == {}
    assert found.checked == 0
    assert len(found.unlisted) == write_missing(made)
    assert check(made).unlisted == ()
    data = next(made.glob("data/*.lance"))
    data.write_bytes(b"\0" + data.read_bytes()[1:])
    assert set(check(made).problems) == {data.relative_to(made).as_posix()}


def test_a_damaged_list_of_checksums_costs_the_checks_of_its_lines_alone(made):
    listed = made / "_sparing" / "checksums"
    lines = listed.read_bytes().split(b"\n")
    lines[1] = b"0" + lines[1][1:] if lines[1][:1] != b"0" else b"1" + lines[1][1:]
    listed.write_bytes(b"\n".join(lines))
    found = check(made)
    assert found.problems == {}
    assert (len(found.unlisted), found.unreadable) == (1, 1)


def test_compaction_leaves_a_whole_cache_and_a_short_list(made):
    for seed in range(6):
        refreshed(Cache.open(made), seed, 10)
    Cache.open(made).compact(keep_rounds=1)
    found = check(made)
    assert found.problems == {}
    assert found.unlisted == ()
    listed = (made / "_sparing" / "checksums").read_text().split("\n")
    assert all((made / json.loads(line.split(" ", 3)[3])).exists() for line in listed if line)


def test_a_kill_between_a_commit_and_its_note_leaves_no_gap_after_the_next(made, monkeypatch):
    from sparing.cache import transactions

    noted = []
    real = transactions.checking.note_files

    def killed(path, files):
        noted.append(files)
        if len(noted) == 2:  # the first is before the commit, the second of the manifest
            raise KeyboardInterrupt
        real(path, files)

    monkeypatch.setattr(transactions.checking, "note_files", killed)
    with pytest.raises(KeyboardInterrupt):
        Cache.open(made).delete(["s10"])
    monkeypatch.undo()
    assert len(check(made).unlisted) == 2  # the manifest, and the transaction that made it
    Cache.open(made).delete(["s11"])
    assert check(made).unlisted == ()


def test_ids_of_a_damaged_cache_are_not_read(made, monkeypatch):
    data = max(made.glob("data/*.lance"), key=lambda file: file.stat().st_size)
    whole = data.read_bytes()
    data.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    monkeypatch.setattr("sparing.cache.checking._verified", {})
    with pytest.raises(CacheError, match="is damaged: data/"):
        Cache.open(made).ids()


def test_damage_is_not_compacted_away(made, monkeypatch):
    data = max(made.glob("data/*.lance"), key=lambda file: file.stat().st_size)
    whole = data.read_bytes()
    data.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    monkeypatch.setattr("sparing.cache.checking._verified", {})
    with pytest.raises(CacheError, match="is damaged: data/"):
        Cache.open(made).compact(keep_rounds=0)


def test_damaged_work_in_progress_is_found_and_moved_aside(made):
    from sparing.storage.arrow import write_arrow

    staged = made / "_sparing" / "round"
    staged.mkdir(parents=True)
    write_arrow(staged / "chunk-000000000000-000002.arrow", pa.table({"x": [1, 2]}))
    shutil.copy(staged / "chunk-000000000000-000002.arrow", staged / "chunk-000000000002-000002.arrow")
    path = staged / "chunk-000000000002-000002.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert list(check(made).problems) == ["_sparing/round/chunk-000000000002-000002.arrow"]
    assert repair(made)[1] == 4
    assert [file.name for file in staged.iterdir()] == ["chunk-000000000000-000002.arrow"]
