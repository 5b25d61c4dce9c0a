"""The README's path through the command line, and what goes wrong on it."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.refresh.scoring import OTHER_NAMES, SCORERS, refresh_scorers

MODEL = "new=models.py:new"
SAMPLES = ("--samples", "samples.parquet")


@pytest.fixture
def imported(sparing, files):
    assert sparing("cache", "import", "photos.lance", "--from", "old.parquet", "--model", "old").code == 0
    return sparing


def test_from_import_to_export(imported):
    run = imported
    fitted = run(
        "fit", "photos.lance", "--model", MODEL, *SAMPLES, "--rows", "60", "--out", "ranker", "--json"
    ).json
    assert fitted["held_out_rows"] == 12
    assert (fitted["forwards"], fitted["share_of_rows"]) == (60, 0.2)
    learned = {name for name, scorer in SCORERS.items() if scorer.learns}
    assert set(fitted["consistency"]) == {*learned, "entropy", "random"}
    common = ("photos.lance", "--model", MODEL, *SAMPLES, "--ranker", "ranker", "--budget", "50%", "--json")
    dry = run("refresh", *common, "--dry-run").json
    assert (dry["refresh"], dry["forwards"], dry["known"]) == ({"new": 150}, {"new": 90}, 60)
    assert dry["prediction"]["rows"] == 12
    assert run("cache", "info", "photos.lance", "--json").json["round"] == 0
    report = run("refresh", *common).json
    assert (report["round"], report["refreshed"], report["account"]["forwards"]) == (1, 150, {"new": 150})
    info = run("cache", "info", "photos.lance", "--json").json
    assert {m["name"]: m["rows"] for m in info["models"]} == {"old": 150, "new": 150}
    assert info["accuracy"] == pytest.approx(report["accuracy"])
    history = run("cache", "history", "photos.lance", "--json").json["history"]
    assert [entry["op"] for entry in history] == ["import", "refresh"]
    row = run("cache", "get", "photos.lance", "s0003", "--json").json["rows"][0]
    assert row["id"] == "s0003"
    assert sum(row["probs"]) == pytest.approx(1, abs=1e-3)
    assert run("cache", "export", "photos.lance", "--out", "out.parquet").code == 0
    table = pq.read_table("out.parquet")
    assert table["id"].to_pylist() == sorted(f"s{i:04d}" for i in range(300))
    assert table["model"].to_pylist().count("new") == 150


def test_people_get_sentences(imported):
    run = imported
    out = run("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "20%", "--dry-run").out
    assert "a budget of 20% refreshes 60 of 300 rows, learning while it spends" in out
    assert "first 30 random rows" in out
    assert "no consistency is predicted" in out
    alone = ("--scorer", "entropy", "--dry-run")
    out = run("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "20%", *alone).out
    assert "a budget of 20% refreshes 60 of 300 rows, ranked by entropy" in out
    assert "no held-out rows to predict consistency from" in out
    done = run("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "20%")
    assert "round 1: refreshed 60 of 300 rows" in done.out
    assert (
        "learning: 30 random rows first, then slices ranked by what was learned: 0, by entropy: 1" in done.out
    )
    assert "sparing cache rollback photos.lance --round 0" in done.err
    assert "300 rows, 5 classes, float16" in run("cache", "info", "photos.lance").out
    assert "60 rows: new under 20%, ranked by learned" in run("cache", "history", "photos.lance").out
    assert "round 1" in run("cache", "get", "photos.lance", *[f"s{i:04d}" for i in range(300)]).out


def test_fit_says_what_it_takes_of_a_budget(imported):
    out = imported("fit", "photos.lance", "--model", MODEL, *SAMPLES, "--rows", "30").out
    assert "30 forwards count in the next budget: 10.00% of the cache's rows, 20.00% of what a budget" in out
    known = imported("fit", "photos.lance", "--outputs", "new=old.parquet", "--out", "other")
    assert known.code == 0
    assert "forwards count" not in known.out


def test_features_are_columns_of_the_samples_or_a_table(imported):
    run = imported
    ids = [f"s{i:04d}" for i in range(300)]
    pq.write_table(pa.table({"id": ids, "group": [f"g{i % 3}" for i in range(300)]}), "files.parquet")
    command = ("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "40%")
    assert run(*command, "--features", "files.parquet:colour").code == 1
    assert "no column 'colour'" in run(*command, "--features", "files.parquet:colour").err
    assert run(*command, "--features", "colour").code == 1
    for features in ("files.parquet", "files.parquet:group"):
        assert run(*command, "--features", features, "--dry-run").code == 0
    report = run(*command, "--features", "files.parquet", "--json").json
    assert (report["refreshed"], report["learning"]["probe"]) == (120, 30)


def test_append_delete_rollback_compact(imported):
    run = imported
    assert run("cache", "delete", "photos.lance", "s0001", "s0002").code == 0
    added = run("cache", "append", "photos.lance", "--model", MODEL, *SAMPLES, "--json")
    assert added.json == {"added": 2, "compacted": None}
    run("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "10%")
    assert run("cache", "rollback", "photos.lance", "--round", "0", "--json").json["round"] == 0
    assert run("cache", "info", "photos.lance", "--json").json["rows"] == 300
    sizes = run("cache", "compact", "photos.lance", "--keep-rounds", "0", "--json").json
    assert sizes["bytes_after"] < sizes["bytes_before"]
    assert "dropped by compaction" in run("cache", "history", "photos.lance").err


def test_fill(sparing, files):
    (files / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    run = sparing
    result = run("cache", "fill", "p.lance", "--model", MODEL, *SAMPLES, "--classes", "classes.txt", "--json")
    assert result.json["class_names"] == list("abcde")
    assert result.json["labelled"] == 300
    assert "(" in run("cache", "get", "p.lance", "s0000").out


def test_outputs_known_from_elsewhere(imported):
    run = imported
    run("cache", "fill", "new.lance", "--model", MODEL, *SAMPLES)
    run("cache", "export", "new.lance", "--out", "new.parquet")
    assert run("fit", "photos.lance", "--outputs", "new=new.parquet", "--out", "r").code == 0
    replay = ("--model", "new=new.parquet", "--ranker", "r", "--cost", "new=5ms", "--budget", "1s", "--json")
    dry = run("refresh", "photos.lance", *replay, "--dry-run").json
    assert dry["refresh"] == {"new": 200}  # 1 s at 5 ms
    assert dry["seconds"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["refresh", "photos.lance", "--model", MODEL, "--budget", "150%"], 1, "more than all rows"),
        (["refresh", "photos.lance", "--model", MODEL, "--budget", "-1s"], 1, "cannot be -1"),
        (["refresh", "photos.lance", "--model", MODEL, "--budget", "50%"], 1, "give them with --samples"),
        (["refresh", "photos.lance", "--model", "models.py:new", "--budget", "50%"], 1, "NAME=|name="),
        (["refresh", "photos.lance", "--model", "new=nowhere.onnx", "--budget", "50%"], 1, "nowhere.onnx"),
        (["refresh", "photos.lance", "--model", "new=models.py:absent", "--budget", "50%"], 1, "absent"),
        (
            ["refresh", "photos.lance", "--model", MODEL, "--budget", "50%", "--until", "6pm"],
            1,
            "such as 06:00",
        ),
        (
            ["refresh", "photos.lance", "--model", MODEL, "--budget", "50%", "--cost", "x=1"],
            1,
            "--cost names 'x'",
        ),
        (["refresh", "nowhere.lance", "--model", MODEL, "--budget", "50%", "--dry-run"], 1, "no cache at"),
        (["refresh", "old.parquet", "--model", MODEL, "--budget", "50%", "--dry-run"], 1, "is not a cache"),
        (
            ["refresh", "photos.lance", "--model", MODEL, "--budget", "50%", "--finish"],
            1,
            "nothing to finish",
        ),
        (["fit", "photos.lance", "--out", "r"], 1, "either --model"),
        (["fit", "photos.lance", "--model", MODEL, *SAMPLES, "--out", "no/ranker"], 1, "folder that exists"),
        (["refresh", "photos.lance", "--model", MODEL, "--budget", "1"], 1, "rows or percent"),
        (["fit", "photos.lance", "--model", MODEL, *SAMPLES, "--input", "raw"], 1, "sorted or plain"),
        (["cache", "import", "photos.lance", "--from", "old.parquet", "--model", "m"], 1, "exists already"),
        (["cache", "import", "b.lance", "--from", "models.py", "--model", "m"], 1, "models.py"),
        (["cache", "import", "b.lance", "--from", "bad.parquet", "--model", "m"], 1, "look like logits"),
        (["cache", "get", "photos.lance", "nobody"], 1, "1 of the ids are not in the cache"),
        (["cache", "delete", "photos.lance", "nobody"], 1, "not in the cache"),
        (["cache", "rollback", "photos.lance", "--round", "3"], 1, "cannot be restored"),
        (["cache", "export", "photos.lance", "--out", "/dev/full/x"], 1, "could not be written"),
    ],
)
def test_bad_input_is_one_clear_line(imported, files, arguments, code, message):
    import re

    from sparing.data.tables import list_column

    logits = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32) * 5
    table = {"id": ["a", "b", "c"], "probs": list_column(logits)}
    import pyarrow as pa

    pq.write_table(pa.table(table), files / "bad.parquet")
    before = imported("cache", "info", "photos.lance", "--json").json
    result = imported(*arguments)
    assert result.code == code
    assert result.out == ""
    error = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert re.search(message, error[0])
    after = imported("cache", "info", "photos.lance", "--json").json
    assert {**before, "bytes": 0} == {**after, "bytes": 0}


def test_a_model_that_raises_says_how_to_go_on(imported):
    result = imported(
        "refresh", "photos.lance", "--model", "new=models.py:raising", *SAMPLES, "--budget", "50%"
    )
    assert result.code == 1
    assert "no such layer" in result.err
    assert "the same command resumes there" in result.err
    other = imported("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "50%")
    assert "unfinished round is staged" in other.err
    assert "sparing cache discard" in imported("cache", "delete", "photos.lance", "s0001").err
    assert imported("cache", "discard", "photos.lance", "--json").json == {"discarded": True}
    assert imported("cache", "delete", "photos.lance", "s0001").code == 0
    assert (
        imported("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "50%", "--discard").code
        == 0
    )


LOUD = """
import numpy as np
print("loading")

def new(values):
    print("hi")
    return np.full((len(values), 5), 0.2)
"""


def test_what_a_model_prints_stays_out_of_the_json(imported, files):
    (files / "loud.py").write_text(LOUD)
    result = imported(
        "refresh", "photos.lance", "--model", "new=loud.py:new", *SAMPLES, "--budget", "50%", "--json"
    )
    assert result.json["refreshed"] == 150
    assert "hi" in result.err


def test_integer_ids_out_of_range_are_refused(sparing, files):
    table = pq.read_table(files / "old.parquet")
    pq.write_table(table.set_column(0, "id", [list(range(300))]), files / "ints.parquet")
    sparing("cache", "import", "ints.lance", "--from", "ints.parquet", "--model", "old")
    assert sparing("cache", "get", "ints.lance", "7").code == 0
    for wrong in ("9" * 30, "seven"):
        result = sparing("cache", "get", "ints.lance", wrong)
        assert result.code == 1
        assert "64-bit whole numbers" in result.err


def test_rolling_back_says_what_it_undoes(imported):
    imported("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "50%")
    imported("cache", "delete", "photos.lance", "s0001")
    assert "300 rows (it was 299" in imported("cache", "rollback", "photos.lance", "--round", "0").out


def test_an_interrupt_says_how_to_go_on(imported):
    result = imported(
        "refresh", "photos.lance", "--model", "new=models.py:interrupted", *SAMPLES, "--budget", "50%"
    )
    assert result.code == 130
    assert "--finish" in result.err
    assert imported("cache", "info", "photos.lance", "--json").json["round"] == 0


def test_the_old_name_of_ranker_is_an_alias_that_says_so(imported):
    sparing = imported
    fit = ("fit", "photos.lance", "--model", MODEL, *SAMPLES, "--rows", "60", "--epochs", "1")
    assert sparing(*fit).code == 0
    common = ("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "50%", "--dry-run", "--json")
    new, old = sparing(*common, "--ranker", "ranker"), sparing(*common, "--router", "ranker")
    assert (new.code, old.code) == (0, 0)
    assert new.json == old.json
    assert "--router is deprecated" in old.err
    assert "--router" not in new.err
    assert "--router" not in sparing("refresh", "--help").out
    assert "give --ranker alone" in sparing(*common, "--ranker", "ranker", "--router", "ranker").err


def test_every_scorer_that_can_be_recommended_ranks_a_round(imported):
    run = imported
    assert run("fit", "photos.lance", "--model", MODEL, *SAMPLES, "--rows", "60", "--epochs", "1").code == 0
    common = ("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--ranker", "ranker", "--budget", "50%")
    for name in ("pure", *refresh_scorers()):
        found = run(*common, "--scorer", name, "--dry-run", "--json").json
        assert found["scorer"] == OTHER_NAMES.get(name, name)
        assert 0 <= found["prediction"]["consistency"] <= 1
    assert run(*common, "--scorer", "mlink", "--json").json["refreshed"] == 150
    missing = run(*common, "--scorer", "agreement")
    assert missing.code == 1
    assert "needs outputs of further cached models" in missing.err
    assert "only an evaluation knows" in run(*common, "--scorer", "oracle-change").err
    assert "there is no scorer 'vibes'" in run("fit", *common[1:4], *SAMPLES, "--scorer", "vibes").err


@pytest.mark.parametrize("verb", ["refresh", "fit", "evaluate"])
def test_the_help_lists_the_scorers(sparing, verb):
    said = sparing(verb, "--help").out
    assert "scorers}" not in said
    words = "".join(said.replace("\u2502", " ").split())  # lines break anywhere
    assert ",".join(refresh_scorers()) in words or verb == "evaluate"
    assert all(name in words for name in refresh_scorers())


def test_only_a_round_that_changed_something_can_be_undone(imported):
    run = imported
    common = ("photos.lance", "--model", MODEL, *SAMPLES)
    done = run("refresh", *common, "--budget", "100%")
    assert "to undo: sparing cache rollback photos.lance --round 0" in done.err
    again = run("refresh", *common, "--budget", "100%")
    assert again.code == 0
    assert "undo" not in again.err
    assert "nothing was changed: 0 rows are left for " in again.err
    assert "needs another digest" in again.err
    poor = run(
        "refresh", "photos.lance", "--model", MODEL.replace("=", "2=", 1), *SAMPLES, "--budget", "0rows"
    )
    assert "or the budget pays for none" in poor.err


def test_a_function_whose_source_changed_is_another_model(imported, monkeypatch):
    run = imported
    done = run("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "10rows")
    assert done.code == 0
    path = Path("models.py").resolve()
    path.write_text(path.read_text() + "# changed\n")
    loaded = [name for name, module in sys.modules.items() if getattr(module, "__file__", "") == str(path)]
    for name in loaded:  # a new command is a new process
        monkeypatch.delitem(sys.modules, name)
    changed = run("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "10rows")
    assert changed.code == 1
    assert "another digest" in changed.err
    assert "give the new model another name" in changed.err


def test_correction_within_a_budget_of_nothing_runs_nothing(imported):
    run = imported
    assert run("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--budget", "50%").code == 0
    common = ("refresh", "photos.lance", "--model", "newer=models.py:new", "--recent", MODEL, *SAMPLES)
    asked = (*common, "--scorer", "entropy", "--correct-within-budget", "--json")
    report = run(*asked, "--budget", "0rows").json
    assert report["account"]["forwards"] == {}
    report = run(*asked, "--budget", "9rows").json
    assert 0 < sum(report["account"]["forwards"].values()) <= 9


def test_small_files_are_compacted_and_one_line_says_so(imported):
    run = imported
    one = ("refresh", "photos.lance", "--model", MODEL, *SAMPLES, "--scorer", "entropy", "--budget", "2rows")
    for _ in range(7):
        assert "compacted" not in run(*one).out
    kept = run(*one, "--no-compact", "--json").json
    assert kept["compacted"] is None
    done = run(*one)
    assert "compacted: 10 files of rows became 2, 18 rows were rewritten" in done.out
    history = run("cache", "history", "photos.lance", "--json").json["history"]
    assert [(entry["op"], entry["restorable"]) for entry in history] == [
        ("import", True),
        *[("refresh", True)] * 9,
    ]
    assert run("cache", "rollback", "photos.lance", "--round", "3").code == 0
