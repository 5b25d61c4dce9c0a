import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.refresh.scoring.test_router import pair

from sparing.errors import InputError
from sparing.refresh.scoring import SCORERS
from sparing.refresh.scoring.ranker import Ranker, fit_ranker, train_ranker
from sparing.refresh.scoring.ranking import make_ranking
from sparing.refresh.scoring.unlearned import Entropy

OLD = Path(__file__).parents[2] / "files" / "0.1"


def test_one_regressor_per_candidate():
    old, new = pair(800)
    ranker = train_ranker(old, [new, old], ["sure", "same"], ["d1", "d2"], epochs=20)
    benefits = ranker.benefits(old)
    assert (benefits.argmax(axis=1) == 0).mean() > 0.7
    assert abs(benefits[:, 1]).mean() < 0.2  # the same model changes nothing


def test_a_ranker_file_holds_everything_and_no_pickle(tmp_path, known):
    ranker = fit_ranker(known, ["a", "b"], ["d1", None], epochs=1, hidden=(8, 4))
    ranker = replace(ranker, preferred="mlink")
    ranker.save(tmp_path / "ranker")
    again = Ranker.load(tmp_path / "ranker")
    assert (again.candidates, again.preferred) == (ranker.candidates, "mlink")
    assert list(again.scorers) == [name for name, scorer in SCORERS.items() if scorer.learns]
    for name in again.scorers:
        np.testing.assert_array_equal(again.score(name, known.rows), ranker.score(name, known.rows))
    assert list(again.holdout.benefits) == list(ranker.holdout.benefits)
    for name in again.holdout.benefits:
        asked = name, ["a", "b"], "b", 0.5
        assert again.holdout.predict(*asked) == ranker.holdout.predict(*asked)
    assert again.to_bytes() == ranker.to_bytes()
    assert b"pickle" not in ranker.to_bytes()


def test_columns_of_held_out_rows_go_by_name(known, monkeypatch):
    class Added(Entropy):
        name = "added"

    ranker = fit_ranker(known, ["a", "b"], [None, None], epochs=1)
    wanted = ranker.holdout.predict("margin", ["a", "b"], "b", 0.5)
    # A later release knows one scorer more, first of all, and lists the others the other way round.
    registry = {"added": Added, **dict(reversed(SCORERS.items()))}
    for module in ("sparing.refresh.scoring", "sparing.refresh.scoring.ranker"):
        monkeypatch.setattr(f"{module}.SCORERS", registry)
    again = Ranker.from_bytes(ranker.to_bytes())
    assert again.holdout.predict("margin", ["a", "b"], "b", 0.5) == wanted
    assert again.holdout.predict("added", ["a", "b"], "b", 0.5) is None


def edited(data, edit):
    """The file with another header."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    edit(header, arrays)
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda h, a: h.update(format=9, sparing="9.1"), r'format 9, .*pip install "sparing>=9.1"'),
        (lambda h, a: h.update(format=9, sparing=None), "pip install --upgrade sparing"),
        (lambda h, a: h["scorers"][0].update(version=7), r"scorer 'router', version 7, .*sparing>="),
        (lambda h, a: h["scorers"][0].update(name="psychic"), r"scorer 'psychic', version 1, .*sparing>="),
        (lambda h, a: h.update(type="other"), "type"),
        (lambda h, a: h.update(candidates=[]), "candidates"),
        (lambda h, a: h.update(n_classes=7), "not a ranker file"),
        (lambda h, a: a.pop("router/0_biases_1"), "not a ranker file"),
        (lambda h, a: a.update({"router/0_biases_0": np.zeros(3, np.float32)}), "not a ranker file"),
        (lambda h, a: h["candidates"].append({"name": "b", "digest": None, "seconds": None}), "shape"),
    ],
)
def test_an_element_that_cannot_be_read_is_named(edit, message):
    old, new = pair(50)
    data = train_ranker(old, [new], ["a"], ["d"], form="plain", epochs=1).to_bytes()
    assert Ranker.from_bytes(edited(data, lambda h, a: None)).to_bytes() == data
    with pytest.raises(InputError, match=message):
        Ranker.from_bytes(edited(data, edit))


@pytest.mark.parametrize("damage", ["text", "truncated", "pickle", "a list"])
def test_files_that_are_no_ranker(tmp_path, damage):
    old, new = pair(50)
    data = train_ranker(old, [new], ["a"], ["d"], epochs=1).to_bytes()
    path = tmp_path / "ranker.npz"
    if damage == "text":
        path.write_text("hello")
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "pickle":
        np.savez(path, header=np.array([{"format": 2}], dtype=object))
    else:
        np.savez(path, header=np.frombuffer(b"[1, 2]", np.uint8))
    with pytest.raises(InputError, match="is not a ranker file"):
        Ranker.load(path)


@pytest.mark.parametrize("name", ["sorted", "plain", "round2", "next"])
def test_files_of_format_1_give_the_same_benefits(name):
    path = OLD / f"{name}.router"
    ranker = Ranker.load(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes())
    assert header["format"] == 1
    rows = np.random.default_rng(0).dirichlet(np.ones(ranker.n_classes), 50).astype(np.float32)
    for index, column in enumerate(ranker.benefits(rows).T):
        # The forward pass, written out.
        values = rows if header["form"] == "plain" else -np.sort(-rows, axis=1)[:, : header["width"]]
        for layer in range(header["candidates"][index]["layers"]):
            values = np.maximum(values, 0) if layer else values
            values = values @ arrays[f"weights_{index}_{layer}"] + arrays[f"biases_{index}_{layer}"]
        np.testing.assert_allclose(column, values[:, 0], atol=1e-5)
    held = ranker.holdout
    assert list(held.benefits) == ["router", "change", "entropy", "least-confidence", "margin", "random"]
    np.testing.assert_array_equal(held.benefits["margin"], arrays["evidence_uncertainty"][:, 2])
    # Its rounds go by the digest of the old file, so that what is staged and what is past stays known.
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    names = ranker.names
    assert make_ranking("router", names, names[-1], ranker=ranker).digest == digest
    assert make_ranking("change", names, names[-1], ranker=ranker).digest == f"change:{digest}"
    assert replace(ranker, preferred="change").source is None
    # Saved again, it is a file of this format.
    again = Ranker.from_bytes(ranker.to_bytes())
    assert again.source is None
    np.testing.assert_array_equal(again.benefits(rows), ranker.benefits(rows))


def test_bad_training_data_is_named():
    old, new = pair(10)
    with pytest.raises(InputError, match="cannot be fitted on 1 rows"):
        train_ranker(old[:1], [new[:1]], ["a"], ["d"])
    with pytest.raises(InputError, match="must share their classes"):
        train_ranker(old, [new[:, :5]], ["a"], ["d"])
    with pytest.raises(InputError, match="reads 20 classes, the cache has 5"):
        train_ranker(old, [new], ["a"], ["d"], epochs=1).benefits(old[:, :5])
