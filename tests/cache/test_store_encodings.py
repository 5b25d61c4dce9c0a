import numpy as np
import pyarrow as pa
import pytest
from tests.cache.test_store import refresh, table_of
from tests.conftest import distributions

from sparing.cache import Cache, ModelInfo
from sparing.cache.encodings import parse_encoding
from sparing.errors import InputError

NAMES = [
    "float32",
    "float16",
    "int8",
    "int4",
    "top2-int4",
    "top1-int4-uint16",
    "top3-int4",
    "int4-uniform",
    "top3-int8",
    "top2-float16",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_way_of_writing_and_reading_goes_through_the_encoding(tmp_path, name):
    form = parse_encoding(name, 5)
    stored = lambda probs: form.encode(probs).decode()  # noqa: E731
    ids = pa.array([f"s{i:03d}" for i in range(90)])
    path = tmp_path / "c.lance"
    first = distributions(90)
    cache = Cache.create(path, [(ids, first, None)], ModelInfo("old", "d:old"), encoding=name)
    np.testing.assert_array_equal(cache.get(["s007"]).probs, stored(first[7:8]))
    rows = refresh(cache, ["s001", "s010", "s049"])
    cache.append([(pa.array(["x1"]), first[:1], None)], ModelInfo("old", "d:old"))
    cache.delete(["s002"])
    cache = Cache.open(path)
    assert cache.metadata.encoding == name
    np.testing.assert_array_equal(cache.get(["s001", "s010", "s049"]).probs, stored(rows.probs))
    np.testing.assert_array_equal(cache.get(["s003", "x1"]).probs, stored(first[[3, 0]]))
    before = table_of(cache)
    cache.compact()
    after = table_of(Cache.open(path))
    assert all((after[i] == row).all() for i, row in before.items())
    assert len(after) == len(before) == 90


@pytest.mark.parametrize("name", ["top1-int4", "int4", "float32"])
def test_conversion_is_a_version_of_its_own(make_cache, name):
    cache = make_cache(60)
    refresh(cache, ["s001"])
    before = table_of(cache)
    reader = Cache.open(cache.path)
    cache.convert(name)
    again = Cache.open(cache.path)
    assert (again.metadata.encoding, again.metadata.round) == (name, 1)
    record = again.metadata.history[-1]
    assert (record["op"], record["from"], record["to"]) == ("convert", "float16", name)
    np.testing.assert_array_equal(reader.get(["s001"]).probs[0], before["s001"])
    form = parse_encoding(name, 5)
    for i, row in table_of(again).items():
        np.testing.assert_array_equal(row, form.encode(before[i][None]).decode()[0])
    old, new = reader.get(["s001", "s050"]), again.get(["s001", "s050"])
    for column in ("labels", "models", "rounds", "scores"):
        np.testing.assert_array_equal(getattr(old, column), getattr(new, column))
    refresh(again, ["s002"], name="newer")
    np.testing.assert_array_equal(again.get(["s002"]).probs, form.encode(distributions(1, seed=7)).decode())
    again.rollback(0)
    assert Cache.open(cache.path).metadata.encoding == "float16"
    with pytest.raises(InputError, match="encoded as float16 already"):
        again.convert("float16")
    with pytest.raises(InputError, match="there is no encoding 'zip'"):
        again.convert("zip")


@pytest.mark.parametrize(
    "name",
    [
        "float16",
        "int8",
        "int4",
        "top8-int4",
        "top4-int4",
        "top1-int4",
        "top8-int4-uint16",
        "top8-int8",
        "top4-float16",
        "top1-float32",
    ],
)
def test_the_data_file_holds_about_what_the_encoding_says(tmp_path, name):
    # 100 classes and rows without any pattern that compression could use.
    rng = np.random.default_rng(3)
    m = 40_000
    probs = rng.dirichlet(np.full(100, 0.2), m).astype(np.float32)
    cache = Cache.create(
        tmp_path / "c.lance", [(pa.array(np.arange(m)), probs, None)], ModelInfo("m", "d"), encoding=name
    )
    size = cache.row_bytes()
    assert size["nominal"] == parse_encoding(name, 100).nominal_bytes
    assert 0.8 * size["nominal"] < size["probs"] <= 1.1 * size["nominal"]
    assert size["row"] < size["probs"] + 4
    data = sum(f.stat().st_size for f in (cache.path / "data").iterdir())
    assert size["row"] * m <= data <= size["row"] * m + 8192
