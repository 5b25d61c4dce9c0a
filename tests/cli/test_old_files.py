"""Files that earlier versions wrote are read, continued and answer as they did then.

Each folder of `files` is named after the version that wrote it, by the script beside it, and holds what that
version said about its own files (`expected.json`, and the tables that it exported).
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

OLD = Path(__file__).parents[1] / "files" / "0.1"
EXPECTED = json.loads((OLD / "expected.json").read_text())
HOME = "/tmp/sparing-0.1"  # noqa: S108 -- where they were written: a profile names its experts by their paths
SAMPLES = ("--samples", "samples.parquet")
NUMBERED = ["numbered-float32", "numbered-int8", "numbered-int4", "numbered-top2-int4", "numbered-top3-int4"]


@pytest.fixture
def old(tmp_path):
    """A copy of the folder as it would lie with a user, where the command runs."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*.json"):
        path.write_text(path.read_text().replace(HOME, str(tmp_path)))
    return tmp_path


def same_table(path, name):
    """Compare an exported table with the one that the old version exported."""
    found, wanted = pq.read_table(path), pq.read_table(OLD / f"{name}.parquet")
    # What an export says of the prediction and of where it comes from is new.
    new = {"prediction", "source"} - set(wanted.schema.names)
    assert [name for name in found.schema.names if name not in new] == wanted.schema.names
    for column in wanted.schema.names:
        now, then = found[column].to_pylist(), wanted[column].to_pylist()
        if column in ("probs", "score"):
            np.testing.assert_allclose(np.array(now, float), np.array(then, float), atol=2e-6)
        else:
            assert now == then, column


def ok(result):
    assert result.code == 0, result.err
    return result


def near(found, wanted):
    """Compare JSON values, numbers to within rounding."""
    if isinstance(wanted, dict):
        assert set(wanted) <= set(found)
        for key, value in wanted.items():
            near(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            near(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-7, nan_ok=True)
    else:
        assert found == wanted


@pytest.mark.parametrize("name", ["strings", "known", "staged", "vector", "image", *NUMBERED])
def test_a_cache_says_and_holds_what_it_did(sparing, old, name):
    wanted = EXPECTED[name]
    info = ok(sparing("cache", "info", f"{name}.lance", "--json")).json
    for key in ("rows", "classes", "encoding", "round", "version", "id_type", "accuracy", "labelled"):
        near(info[key], wanted[key])
    assert (info["unfinished"] is None) == (wanted["unfinished"] is None)
    near(info["models"], wanted["models"])
    history = ok(sparing("cache", "history", f"{name}.lance", "--json")).json["history"]
    near([{key: entry[key] for key in ("op", "round", "version")} for entry in history], wanted["history"])
    near([entry["report"] for entry in history if "report" in entry], wanted["reports"])
    assert ok(sparing("cache", "history", f"{name}.lance")).out.count("\n") == len(history)
    ok(sparing("cache", "export", f"{name}.lance", "--out", "now.parquet"))
    same_table("now.parquet", name)


def test_every_version_of_a_cache_can_be_opened_and_gone_back_to(sparing, old):
    for entry in EXPECTED["strings"]["history"]:
        name = f"strings-version{entry['version']}"
        ok(sparing("cache", "export", "strings.lance", "--version", entry["version"], "--out", "now.parquet"))
        same_table("now.parquet", name)
    ok(sparing("cache", "rollback", "strings.lance", "--round", 1))
    ok(sparing("cache", "export", "strings.lance", "--out", "now.parquet"))
    same_table("now.parquet", "strings-version2")


def test_an_old_cache_can_be_appended_to_converted_and_compacted(sparing, old):
    more = ("--samples", "samples.parquet", "--model", "newest=models.py:newest")
    assert ok(sparing("cache", "append", "strings.lance", *more, "--json")).json["added"] == 280
    ok(sparing("cache", "delete", "strings.lance", *(f"s{i:04d}" for i in range(120, 400))))
    ok(sparing("cache", "compact", "strings.lance", "--keep-rounds", 0))
    ok(sparing("cache", "export", "strings.lance", "--out", "now.parquet"))
    same_table("now.parquet", "strings")
    ok(sparing("cache", "convert", "strings.lance", "--encoding", "int8"))
    ok(sparing("cache", "export", "strings.lance", "--out", "now.parquet"))
    found, wanted = (pq.read_table(path)["probs"].to_pylist() for path in ("now.parquet", "strings.parquet"))
    np.testing.assert_allclose(np.array(found), np.array(wanted), atol=0.02)


CONTINUED = {
    "corrected": (
        "--model", "failing=models.py:failing", "--correct", "--recent", "old=models.py:old",
        "--recent", "new=models.py:new", "--recent", "newer=models.py:newer",
        "--recent", "newest=models.py:newest",
        "--router", "next.router", "--scorer", "router", "--budget", "50%",
    ),
    "by-plain": (
        "--model", "newer=models.py:newer", "--model", "new=models.py:new",
        "--router", "plain.router", "--scorer", "router", "--budget", "50%",
    ),
    "by-change": (
        "--model", "new=models.py:new", "--router", "sorted.router", "--scorer", "change", "--budget", "30%",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTINUED)
def test_the_next_round_of_an_old_cache_by_an_old_ranker(sparing, old, name):
    found = ok(sparing("refresh", "strings.lance", *SAMPLES, *CONTINUED[name], "--json")).json
    wanted = dict(EXPECTED[name])
    assert found["account"]["forwards"] == wanted.pop("forwards")
    near(found, wanted)
    ok(sparing("cache", "export", "strings.lance", "--out", "now.parquet"))
    same_table("now.parquet", name)


@pytest.mark.parametrize(
    "scorer", ["router", "change", "entropy", "margin", "least-confidence", "random", "preferred"]
)
def test_an_old_ranker_predicts_what_it_did(sparing, old, scorer):
    asked = () if scorer == "preferred" else ("--scorer", scorer)
    found = ok(
        sparing(
            "refresh", "strings.lance", "--model", "new=models.py:new", *SAMPLES, "--router", "sorted.router",
            *asked, "--budget", "50%", "--dry-run", "--json",
        )
    ).json  # fmt: skip
    near(found, EXPECTED[f"preview-{scorer}"])


def test_what_an_old_fit_ran_is_not_run_again(sparing, old):
    ranked = ("--router", "sorted.router", "--scorer", "router", "--budget", "70%")
    command = ("refresh", "known.lance", "--model", "new=models.py:new", *SAMPLES, *ranked, "--json")
    found = ok(sparing(*command, "--dry-run")).json
    assert found["known"] == 60
    wanted = EXPECTED["known_preview"]
    del wanted["prediction"][
        "error"
    ]  # it was too small where few held-out rows are all right, and large else
    near(found, wanted)
    report = ok(sparing(*command)).json
    assert report["refreshed"] == 84
    assert found["forwards"] == {"new": 24}
    assert (report["account"]["forwards"], report["account"]["fit_forwards"]) == ({"new": 84}, {"new": 60})


def test_a_round_that_an_old_version_left_unfinished_is_finished(sparing, old):
    command = ("--model", "failing=models.py:failing", *SAMPLES, "--scorer", "margin", "--budget", "80%")
    report = ok(sparing("refresh", "staged.lance", *command, "--json")).json
    assert report["refreshed"] == EXPECTED["finished"]["refreshed"]
    assert report["account"]["forwards"] == EXPECTED["finished"]["forwards"]
    assert report["account"]["wasted_forwards"] == 128
    ok(sparing("cache", "export", "staged.lance", "--out", "now.parquet"))
    same_table("now.parquet", "finished")


def test_a_round_that_an_old_version_left_unfinished_is_discarded(sparing, old):
    assert ok(sparing("cache", "discard", "staged.lance", "--json")).json == {"discarded": True}
    ok(sparing("cache", "export", "staged.lance", "--out", "now.parquet"))
    same_table("now.parquet", "staged")


def test_a_first_fill_that_an_old_version_left_unfinished_is_finished(sparing, old):
    assert all((old / name).exists() for name in EXPECTED["filling"]["beside"])
    import sys

    # A chunk is finished: only what is missing is run again.
    ok(sparing("cache", "fill", "filled.lance", "--model", "failing=models.py:failing", *SAMPLES))
    module = next(m for n, m in sys.modules.items() if getattr(m, "__file__", None) == str(old / "models.py"))
    assert module.LATEST["seen"] == 400 - 128
    ok(sparing("cache", "export", "filled.lance", "--out", "now.parquet"))
    same_table("now.parquet", "filled")


@pytest.mark.parametrize(("name", "samples"), [("vector", "vectors.parquet"), ("image", "images.parquet")])
def test_a_model_with_an_old_description_answers_as_it_did(sparing, old, name, samples):
    ok(sparing("cache", "fill", "now.lance", "--model", f"{name}={name}.onnx", "--samples", samples))
    ok(sparing("cache", "export", "now.lance", "--out", "now.parquet"))
    found, wanted = pq.read_table("now.parquet"), pq.read_table(OLD / f"{name}.parquet")
    probs = [np.array(table["probs"].to_pylist()) for table in (found, wanted)]
    np.testing.assert_allclose(*probs, atol=1e-3)  # stored as float16


@pytest.mark.parametrize("name", ["benefit0", "benefit2", "trade-off0", "entropy0"])
def test_an_old_router_picks_the_same_experts(sparing, old, name):
    budget = EXPECTED[f"answers-{name}.parquet"]
    folder = f"gater-{name[:-1]}"
    ok(sparing("route", "run", folder, "--samples", "vectors.parquet", "--out", "now.parquet", *budget))
    same_answers(name)


def same_answers(name):
    found, wanted = pq.read_table("now.parquet"), pq.read_table(OLD / f"answers-{name}.parquet")
    assert found.schema.names == wanted.schema.names
    for column in ("id", "expert"):
        assert found[column].to_pylist() == wanted[column].to_pylist()
    probs = [np.array(table["probs"].to_pylist()) for table in (found, wanted)]
    np.testing.assert_allclose(*probs, atol=1e-5)


def test_a_router_that_an_old_version_trained_picks_the_same_experts(sparing, old):
    ok(sparing("route", "run", "gater-trained", "--samples", "images.parquet", "--out", "now.parquet"))
    same_answers("trained")


@pytest.mark.parametrize("objective", ["benefit", "entropy"])
def test_an_old_profile_and_its_outputs_calibrate_an_old_router_again(sparing, old, monkeypatch, objective):
    monkeypatch.setenv("REFUSE", "1")  # every output is in the memo
    found = ok(
        sparing(
            "route", "calibrate", f"gater-{objective}", "experts", "--samples", "vectors.parquet",
            "--cost-budget", 0.3, "--cost-budget", 0.5, "--json",
        )
    ).json  # fmt: skip
    near(found["points"], EXPECTED[f"calibrate-{objective}"])


def test_an_old_router_is_judged_as_it_was(sparing, old, monkeypatch):
    monkeypatch.setenv("REFUSE", "1")
    command = ("route", "evaluate", "gater-benefit", "experts", "--samples", "vectors.parquet", "--json")
    found = {point["budget"]: point["parts"][0]["rows"] for point in ok(sparing(*command)).json["points"]}
    for point in EXPECTED["evaluate-benefit"]:
        rows, wanted = found[point["budget"]], point["rows"]
        near([rows[0]["accuracy"], rows[0]["shares"]], [wanted[0]["accuracy"], wanted[0]["shares"]])
        single = {row["name"]: row["accuracy"] for row in rows if row["kind"] == "expert"}
        near(single, {row["name"]: row["accuracy"] for row in wanted if row["kind"] == "expert"})


def test_an_old_profile_is_added_to(sparing, old):
    experts = ("--expert", "small=models.py:small", "--expert", "large=models.py:large")
    stated = ("--cost", "small=0.1", "--cost", "large=0.9")
    found = ok(
        sparing(
            "route",
            "profile",
            *experts,
            *stated,
            "--samples",
            "vectors.parquet",
            "--out",
            "experts",
            "--json",
        )
    ).json
    assert [expert["cost"] for expert in found["experts"]] == [0.1, 0.9]


def test_an_old_policy_sends_what_it_did(sparing, old):
    both = ("--edge", "models.py:edge", "--server-model", "models.py:server", "--samples", "images.parquet")
    found = ok(
        sparing(
            "offload", "evaluate", *both, "--budgets", "64B,200B,500B", "--policies", "whole:dct16",
            "--policy", "policy.toml", "--json",
        )
    ).json["rows"]  # fmt: skip
    near([{key: row[key] for key in EXPECTED["offload"][0]} for row in found], EXPECTED["offload"])


def test_payloads_that_an_old_edge_sent_are_read():
    from sparing.offload import Geometry
    from sparing.offload.wire.payload import unpack

    with np.load(OLD / "payloads.npz") as payloads, np.load(OLD / "patches.npz") as patches:
        positions = np.load(OLD / "positions.npz")
        assert len(payloads.files) == 16
        for scheme in payloads.files:
            evidence = unpack(payloads[scheme].tobytes(), Geometry(32, 32, 4))
            np.testing.assert_array_equal(evidence.positions, positions[scheme])
            # The decoders of WebP, JPEG and AVIF are not ours, and may round otherwise one day.
            most = 0 if scheme.startswith("raw") else 2
            assert np.abs(evidence.patches.astype(int) - patches[scheme].astype(int)).max() <= most, scheme
