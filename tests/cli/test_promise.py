"""`sparing refresh --consistency`, as a user types it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

IDS = [f"r{i:05d}" for i in range(1200)]


@pytest.fixture
def folder(tmp_path, sparing):
    rng = np.random.default_rng(3)
    old = rng.dirichlet(np.full(4, 0.4), len(IDS)).astype(np.float32)
    moved = rng.random(len(IDS)) > 1.2 * old.max(axis=1)
    new = np.where(moved[:, None], np.roll(old, 1, axis=1), old)
    for name, probs in (("old", old), ("new", new)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(probs.ravel()), 4)
        pq.write_table(pa.table({"id": IDS, "probs": column}), tmp_path / f"{name}.parquet")
    sides = pa.table({"id": IDS, "side": [("left", "right")[i % 2] for i in range(len(IDS))]})
    pq.write_table(sides, tmp_path / "sides.parquet")
    sparing("cache", "import", tmp_path / "c.lance", "--from", tmp_path / "old.parquet", "--model", "old")
    return tmp_path


def test_what_is_certified_is_said(folder, sparing):
    asked = ("--model", f"new={folder / 'new.parquet'}", "--consistency", "90%", "--confidence", "90%")
    seen = sparing("refresh", folder / "c.lance", *asked, "--dry-run")
    assert "90% consistency: promised with 90% confidence" in seen.out
    done = sparing("refresh", folder / "c.lance", *asked)
    assert "certified consistency: at least 9" in done.out
    assert "confidence, by" in done.out


def test_by_group_and_as_json(folder, sparing):
    asked = ("--model", f"new={folder / 'new.parquet'}", "--consistency", "85%", "--by", "side")
    done = sparing("refresh", folder / "c.lance", *asked, "--features", folder / "sides.parquet", "--json")
    promise = done.json["promise"]
    assert promise["kept"]
    assert set(promise["groups"]) == {"left", "right"}


def test_without_a_budget_or_a_promise_the_error_says_both(folder, sparing):
    failed = sparing("refresh", folder / "c.lance", "--model", f"new={folder / 'new.parquet'}")
    assert failed.code == 1
    assert "budget" in failed.err
    assert "consistency" in failed.err


def test_precision_and_recall(folder, sparing):
    asked = ("--model", f"new={folder / 'new.parquet'}", "--precision", "1=85%", "--recall", "1=75%")
    assert "85% precision of 1, 75% recall of 1" in sparing("refresh", "c.lance", *asked, "--dry-run").out
    done = sparing("refresh", "c.lance", *asked)
    assert "certified precision of 1: at least" in done.out
    assert "certified recall of 1: at least" in done.out
    failed = sparing("refresh", "c.lance", *asked[:2], "--recall", "95%")
    assert "write CLASS=SHARE" in failed.err
