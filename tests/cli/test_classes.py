"""Models with other classes, at the command line."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from sparing.data.tables import write_outputs

UPDATE = ("refresh", "c.lance", "--model", "new=new.parquet", "--classes", "new=new.txt")


@pytest.fixture
def update(sparing, files):
    ids, rng = [f"s{i:03d}" for i in range(80)], np.random.default_rng(0)
    write_outputs(files / "v1.parquet", ids, rng.dirichlet(np.full(3, 0.5), 80).astype(np.float32))
    write_outputs(files / "new.parquet", ids, rng.dirichlet(np.full(4, 0.5), 80).astype(np.float32))
    (files / "v1.txt").write_text("cat\ndog\nunknown\n")
    (files / "new.txt").write_text("fox\nnoise\ndog\ncat\n")
    given = ("--from", "v1.parquet", "--model", "v1")
    assert sparing("cache", "import", "c.lance", *given, "--classes", "v1.txt").code == 0
    assert sparing("cache", "import", "unnamed.lance", *given).code == 0
    return sparing


def answers(files, name):
    names = (files / f"{name}.txt").read_text().split()
    table = pq.read_table(files / f"{name}.parquet")
    found = [names[int(np.argmax(p))] for p in table["probs"].to_pylist()]
    return dict(zip(table["id"].to_pylist(), found, strict=True))


def test_the_documented_commands(update, files):
    out = update(*UPDATE, "--rename", "unknown=noise", "--budget", "50%").out
    assert "classes: 3 before, 4 now, by name; unknown is named noise" in out
    assert update("cache", "export", "c.lance", "--out", "o.parquet").code == 0
    old, new = answers(files, "v1"), answers(files, "new")
    table = pq.read_table("o.parquet").to_pylist()
    assert sum(row["model"] == "new" for row in table) == 40
    for row in table:
        before = old[row["id"]]
        kept = "noise" if before == "unknown" else before
        assert row["prediction"] == (new[row["id"]] if row["model"] == "new" else kept)
        assert row["source"] == "run"
    shown = update("cache", "classes", "c.lance", "--json").json
    assert shown["classes"] == ["cat", "dog", "noise", "fox"]
    assert [model["classes"] for model in shown["models"]] == [
        ["cat", "dog", "noise"],
        ["fox", "noise", "dog", "cat"],
    ]
    assert "3 classes before, 4 after" in update("cache", "history", "c.lance").out


def test_a_file_of_renames(update, files):
    (files / "renames.txt").write_text("unknown=noise\n\n")
    assert update(*UPDATE, "--rename", "renames.txt", "--budget", "10%").code == 0
    assert update("cache", "info", "c.lance", "--json").json["class_names"] == ["cat", "dog", "noise", "fox"]


def test_names_for_a_cache_that_has_none(update):
    result = update(*UPDATE[:1], "unnamed.lance", *UPDATE[2:], "--budget", "10%")
    assert result.code == 1
    assert "sparing cache classes" in result.err
    assert "3 classes without names" in update("cache", "classes", "unnamed.lance").out
    assert update("cache", "classes", "unnamed.lance", "--names", "v1.txt").code == 0
    assert update("cache", "classes", "unnamed.lance", "--rename", "unknown=noise").code == 0
    assert update(*UPDATE[:1], "unnamed.lance", *UPDATE[2:], "--budget", "10%").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", "new.txt"), "names no model: write NAME=FILE"),
        (("--classes", "newer=new.txt"), "names 'newer', but the models are new"),
        (("--classes", "new=missing.txt"), "the class names in missing.txt cannot be read"),
        (("--classes", "new=new.txt", "--rename", "unknown"), "neither OLD=NEW nor a file of such lines"),
        (("--classes", "new=new.txt", "--rename", "unknown="), "is not of the form OLD=NEW"),
        (("--classes", "new=new.txt", "--rename", "a=b"), "there is no class 'a', and no 'b'"),
        (("--classes", "new=v1.txt"), "names 3 classes but returned 4"),
        ((), "4 classes, where 3 are expected"),
    ],
)
def test_bad_class_lists_are_one_clear_line(update, arguments, message):
    result = update("refresh", "c.lance", "--model", "new=new.parquet", *arguments, "--budget", "10%")
    assert result.code in (1, 2)
    assert message in result.err
    assert "Traceback" not in result.err
