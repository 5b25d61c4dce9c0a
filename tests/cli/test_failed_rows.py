"""Rows that fail: the exit code, the list on stderr, the file and the JSON say so."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

PICKY = """
import io
import numpy as np
from PIL import Image

def picky(values):
    if any(int(value) % 50 == 3 for value in values):
        raise ValueError("no threes")
    rows = [np.random.default_rng([sum(b"new"), int(v)]).dirichlet(np.full(5, 0.4)) for v in values]
    return np.array(rows)

def fine(values):
    return np.full((len(values), 5), 0.2)

def sizes(values):
    wide = [Image.open(io.BytesIO(value)).convert("RGB").width for value in values]
    return np.stack([np.full(len(wide), 0.25), np.full(len(wide), 0.75)], axis=1)
"""
BAD = {"s0003", "s0053", "s0103", "s0153", "s0203", "s0253"}


@pytest.fixture
def run(sparing, files):
    (files / "picky.py").write_text(PICKY)
    assert sparing("cache", "import", "c.lance", "--from", "old.parquet", "--model", "old").code == 0
    return sparing


def listed(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_refresh_is_done_but_says_what_failed(run):
    command = ("refresh", "c.lance", "--model", "new=picky.py:picky", "--samples", "samples.parquet")
    done = run(*command, "--budget", "100%", "--failures", "failed.csv")
    assert done.code == 3
    assert "refreshed 294 of 300 rows" in done.out
    assert "'s0003': model 'new' failed on the sample 's0003': ValueError: no threes" in done.err
    assert "... and 1 more\n" in done.err
    assert "6 rows failed: they keep what they held; the next refresh tries them again" in done.err
    rows = listed("failed.csv")
    assert {row["id"] for row in rows} == BAD
    assert {row["model"] for row in rows} == {"new"}
    again = run(*command, "--budget", "100%", "--max-failures", "5", "--json")
    assert again.code == 1
    assert "at most 5 rows may" in json.loads(again.out)["error"]["message"]


def test_json_holds_the_count_and_the_first_rows(run):
    command = ("refresh", "c.lance", "--model", "new=picky.py:picky", "--samples", "samples.parquet")
    done = run(*command, "--budget", "100%", "--json")
    assert done.code == 3
    assert done.json["failed"] == done.json["account"]["failed_rows"] == 6
    assert len(done.json["failures"]) == 5
    assert {row["id"] for row in done.json["failures"]} < BAD
    history = run("cache", "history", "c.lance", "--json").json["history"]
    assert history[-1]["report"]["failed"] == 6


def test_fill_then_append_adds_what_failed_once_it_works(run):
    common = ("--samples", "samples.parquet", "--batch-size", "4")
    filled = run("cache", "fill", "n.lance", "--model", "m=picky.py:picky", *common, "--json")
    assert filled.code == 3
    assert filled.json["rows"] == 294
    assert "sparing cache append" in filled.err
    added = run("cache", "append", "n.lance", "--model", "o", "--samples", "samples.parquet")
    assert added.code == 1
    added = run("cache", "append", "n.lance", "--model", "o=picky.py:fine", *common)
    assert added.code == 0
    assert "added 6 rows" in added.out


def test_fit_says_what_failed(run):
    fitted = run(
        "fit", "c.lance", "--model", "new=picky.py:picky", "--samples", "samples.parquet", "--rows", "300",
        "--out", "ranker", "--failures", "failed.csv",
    )  # fmt: skip
    assert fitted.code == 3
    assert {row["id"] for row in listed("failed.csv")} == BAD
    assert "the ranker was fitted without them" in fitted.err


def test_one_damaged_image_among_good_ones(run):
    from PIL import Image

    folder = Path("photos")
    folder.mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8 + number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    whole = (folder / "07.png").read_bytes()
    (folder / "07.png").write_bytes(whole[: len(whole) // 2])
    (folder / "12.png").write_bytes(b"")
    filled = run("cache", "fill", "p.lance", "--model", "m=picky.py:sizes", "--samples", "photos", "--json")
    assert filled.code == 3
    assert filled.json["rows"] == 28
    assert "'07.png'" in filled.err
    assert "'12.png'" in filled.err
