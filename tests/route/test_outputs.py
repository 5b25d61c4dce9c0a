import numpy as np
import pyarrow as pa
import pytest

from sparing.errors import InputError, StorageError
from sparing.route import outputs
from sparing.route.outputs import Identity, Memo, short

WHO = Identity(("small", "large.v2"), ("sha256:" + "a" * 64, "callable:m:f"), 3)


def some(*numbers):
    return pa.array([number.to_bytes(16, "big") for number in numbers], pa.binary(16))


def of(*numbers):
    return np.array([[[n, n + 0.25, n + 0.5], [-n, -n - 0.25, -n - 0.5]] for n in numbers], np.float32)


@pytest.fixture
def memo(tmp_path):
    return Memo.create(tmp_path / "p" / "outputs.lance", WHO)


def test_what_is_appended_is_found_by_key(memo):
    assert memo.positions(some(1, 2)).tolist() == [-1, -1]
    memo.append(some(5, 1), of(5, 1))
    memo.append(some(9), of(9))
    opened = Memo.open(memo.path)
    assert (opened.identity, len(opened)) == (WHO, 3)
    for one in (memo, opened):
        found = one.positions(some(9, 7, 5, 9, 1))
        assert found.tolist() == [2, -1, 0, 2, 1]
        assert np.array_equal(one.read(found[[0, 2, 3, 4]]), of(9, 5, 9, 1))
    assert opened.read(np.zeros(0, np.int64)).shape == (0, 2, 3)


def test_many_appends_are_joined(memo, monkeypatch):
    monkeypatch.setattr(outputs, "_FRAGMENTS", 5)
    for number in range(23):
        memo.append(some(2 * number, 2 * number + 1), of(2 * number, 2 * number + 1))
    opened = Memo.open(memo.path)
    assert len(opened._dataset.get_fragments()) < 6
    order = np.random.default_rng(0).permutation(46).tolist()
    for one in (memo, opened):
        assert np.array_equal(one.read(one.positions(some(*order))), of(*order))


def test_reading_in_parts_is_reading_at_once(memo, monkeypatch):
    memo.append(some(*range(50)), of(*range(50)))
    wanted = np.random.default_rng(1).integers(0, 50, 200)
    whole = memo.read(wanted)
    monkeypatch.setattr(outputs, "_READ_ROWS", 7)
    assert np.array_equal(memo.read(wanted), whole)
    assert np.array_equal(whole, of(*wanted.tolist()))


def test_none_is_none_and_damage_is_told(memo, tmp_path):
    assert Memo.open(tmp_path / "none.lance") is None
    memo.append(some(*range(50)), of(*range(50)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="damaged, or made by something else"):
        Memo.open(tmp_path / "empty")
    for data in (memo.path / "data").iterdir():
        data.write_bytes(data.read_bytes()[:40])
    with pytest.raises(InputError, match=r"outputs.lance: damaged.*delete that folder and profile again"):
        Memo.open(memo.path).positions(some(1))
    for manifest in (memo.path / "_versions").iterdir():
        manifest.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"outputs.lance: damaged"):
        Memo.open(memo.path)


def test_another_dataset_is_no_memo(tmp_path):
    import lance

    lance.write_dataset(pa.table({"id": [1]}), str(tmp_path / "other.lance"))
    with pytest.raises(InputError, match="made by something else"):
        Memo.open(tmp_path / "other.lance")


def test_a_full_disk_changes_nothing(memo):
    import resource

    memo.append(some(1), of(1))
    rows = range(100, 9000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"could not be written.*free some space"):
            memo.append(some(*rows), of(*rows))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(Memo.open(memo.path)) == 1
    memo.append(some(*rows), of(*rows))
    assert np.array_equal(memo.read(memo.positions(some(8000, 1))), of(8000, 1))


def test_digests_are_cut_to_read():
    assert short("sha256:" + "0123456789abcdef" * 4) == "sha256:0123456789ab..."
    assert short("callable:a.very.long.module.name:and_function") == (
        "callable:a.very.long.module.name:and_function"
    )
