import contextlib
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.cache.encodings import parse_encoding
from sparing.errors import InputError


@pytest.fixture
def cached(sparing, files):
    assert sparing("cache", "import", "c.lance", "--from", "old.parquet", "--model", "old").code == 0
    return files


def test_get_names_the_ids_that_are_not_there(sparing, cached):
    result = sparing("cache", "get", "c.lance", "s0002", "nobody", "s0001", "no one", "nobody")
    assert result.code == 1
    assert [line[:5] for line in result.out.splitlines()] == ["s0001", "s0002"]
    assert "2 of the ids are not in the cache: 'nobody', 'no one'" in result.err
    many = sparing("cache", "get", "c.lance", *(f"x{i}" for i in range(9)))
    assert "9 of the ids are not in the cache: 'x0', 'x1', 'x2', 'x3', 'x4', ..." in many.err


def test_whole_numbers_are_compared_as_numbers(sparing, tmp_path):
    table = pa.table({"id": [3, 4], "probs": [[0.5, 0.5], [0.1, 0.9]]})
    pq.write_table(table, tmp_path / "o.parquet")
    assert sparing("cache", "import", "n.lance", "--from", "o.parquet", "--model", "m").code == 0
    result = sparing("cache", "get", "n.lance", "03", "3", "5")
    assert result.out.startswith("3: class 0")
    assert "1 of the ids are not in the cache: 5" in result.err


def test_class_names_from_an_editor_that_marks_its_files(sparing, cached):
    (cached / "names.txt").write_text("café\nb\nc\nd\ne\n", encoding="utf-8-sig")
    made = sparing(
        *("cache", "import", "d.lance", "--from", "old.parquet", "--model", "old"),
        *("--classes", "names.txt", "--json"),
    )
    assert made.json["class_names"] == ["café", "b", "c", "d", "e"]


def test_a_class_named_twice_is_refused_before_anything_is_made(sparing, cached):
    (cached / "names.txt").write_text("a\nb\nc\nb\ne\n")
    made = sparing(
        *("cache", "import", "d.lance", "--from", "old.parquet", "--model", "old", "--classes", "names.txt"),
    )
    assert (made.code, "names.txt: class 4 is named 'b', as class 2 is" in made.err) == (1, True)
    filled = sparing(
        *("cache", "fill", "d.lance", "--model", "new=models.py:new", "--samples", "samples.parquet"),
        *("--classes", "names.txt"),
    )
    assert (filled.code, "class 4 is named 'b'" in filled.err) == (1, True)
    assert not (cached / "d.lance").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no colons in names")
def test_a_colon_in_a_relative_path_is_not_a_uri(sparing, cached):
    for name in ("old", "samples"):
        (cached / f"{name}.parquet").rename(cached / f"{name}-12:00.parquet")
    do = lambda *arguments: sparing(*arguments, "--json").json  # noqa: E731
    made = do("cache", "import", "run:1.lance", "--from", "old-12:00.parquet", "--model", "old")
    assert (made["path"], made["rows"]) == ("run:1.lance", 300)
    assert do("cache", "info", "run:1.lance")["rows"] == 300
    samples = ("--samples", "samples-12:00.parquet")
    fitted = sparing(
        *("fit", "run:1.lance", "--model", "new=models.py:new", *samples),
        *("--rows", 100, "--epochs", 1, "--out", "r:1.ranker"),
    )
    assert fitted.code == 0, fitted.err
    candidate = ("--model", "new=models.py:new", "--budget", "0.1", *samples)
    refreshed = sparing("refresh", "run:1.lance", *candidate, "--ranker", "r:1.ranker")
    assert refreshed.code == 0, refreshed.err
    assert do("cache", "compact", "run:1.lance")["bytes_after"] > 0
    assert do("cache", "convert", "run:1.lance", "--encoding", "int4")["encoding"] == "int4"
    assert do("cache", "export", "run:1.lance", "--out", "out:1.parquet")["rows"] == 300
    assert pq.ParquetFile(str(cached / "out:1.parquet")).metadata.num_rows == 300
    evaluated = sparing("evaluate", "--old", "old-12:00.parquet", "--new", "new=old-12:00.parquet")
    assert evaluated.code == 0, evaluated.err
    assert sorted(p.name for p in cached.iterdir() if p.suffix == ".parquet") == [
        "old-12:00.parquet",
        "out:1.parquet",
        "samples-12:00.parquet",
    ]


def test_the_help_names_every_family_of_encodings(sparing, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = sparing("cache", "import", "--help").out.replace("│", " ").split()
    named = {word.strip(",.:()") for word in words}
    families = set()
    for name in named:
        with contextlib.suppress(InputError):  # another word
            families.add(type(parse_encoding(name, 100)).__name__)
    assert families >= {"Floats32", "Floats16", "Levels", "Int4Lists", "WideLists"}
