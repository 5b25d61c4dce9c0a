import json
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.errors import InputError, StorageError
from sparing.storage import checksums
from sparing.storage.arrow import read_arrow, write_arrow
from sparing.storage.checksums import Checksum, checksum_of, sealed, unsealed
from sparing.storage.readers import read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "checksum"), VALUES, max_size=4))
def test_a_sealed_document_survives_json(document):
    text = json.dumps(sealed(document))
    assert unsealed(json.loads(text), "there", InputError) == json.loads(json.dumps(document))


def test_another_content_is_refused_and_one_without_checksum_is_not(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(sealed({"rows": 5})))
    assert read_json(path, dict[str, int]) == {"rows": 5}
    path.write_text(path.read_text().replace("5}", "6}"))
    with pytest.raises(InputError, match=r"a\.json: damaged, or edited: .*remove the key 'checksum'"):
        read_json(path, dict[str, int])
    path.write_text(json.dumps({"rows": 6}))
    assert read_json(path, dict[str, int]) == {"rows": 6}


def test_a_list_is_read_back_and_its_last_entry_counts(tmp_path):
    listed = tmp_path / "x" / "checksums"
    (tmp_path / "a b\n.bin").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"")
    assert checksums.load(listed) == {}
    checksums.note(tmp_path, listed, [tmp_path / "a b\n.bin", tmp_path / "c"])
    (tmp_path / "c").write_bytes(b"two!")
    checksums.note(tmp_path, listed, [tmp_path / "c"])
    wanted = {"a b\n.bin": Checksum(3, zlib.crc32(b"one")), "c": Checksum(4, zlib.crc32(b"two!"))}
    assert checksums.load(listed) == wanted
    checksums.keep(listed, ["c", "gone"])
    assert checksums.load(listed) == {"c": wanted["c"]}


def test_a_damaged_line_is_left_out_and_one_cut_short_too(tmp_path):
    listed = tmp_path / "checksums"
    for name in "abc":
        (tmp_path / name).write_text(name)
    checksums.note(tmp_path, listed, [tmp_path / "a", tmp_path / "b"])
    whole = listed.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        listed.write_bytes(damaged)
        found = checksums.load(listed)
        assert {name: checksum_of(tmp_path / name) for name in found} == found
    listed.write_bytes(whole[:-5])
    checksums.note(tmp_path, listed, [tmp_path / "c"])
    assert set(checksums.load(listed)) == {"a", "c"}


def test_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    wanted = checksum_of(path)
    assert checksums.problem_of(path, wanted) is None
    path.write_bytes(b"abd")
    assert checksums.problem_of(path, wanted) == "has another content than was written"
    assert checksums.problem_of(path, wanted, whole=False) is None
    path.write_bytes(b"ab")
    assert checksums.problem_of(path, wanted, whole=False) == "has 2 bytes, not 3"
    path.unlink()
    assert checksums.problem_of(path, wanted, whole=False) == "is missing"


def test_no_flipped_bit_or_cut_of_an_arrow_file_is_read(tmp_path):
    path = tmp_path / "t.arrow"
    table = pa.table({"id": ["a", "b"] * 20, "x": np.arange(40.0)})
    write_arrow(path, table)
    whole = path.read_bytes()
    assert read_arrow(path).equals(table)
    rng = np.random.default_rng(1)
    for bit in rng.integers(0, 8 * len(whole), 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="damaged"):
            read_arrow(path)
    for end in rng.integers(0, len(whole), 50):
        path.write_bytes(whole[:end])
        with pytest.raises(StorageError, match=r"damaged"):
            read_arrow(path)


def test_an_arrow_file_without_checksum_is_read(tmp_path):
    path = tmp_path / "t.arrow"
    table = pa.table({"x": [1, 2]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert read_arrow(path).equals(table)
