"""Samples that change under their ids are found, run first and reported; identical ones are run once."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.cache import Cache
from sparing.data.fingerprints import Fingerprints
from sparing.data.samples import open_samples
from sparing.errors import InputError
from sparing.models import Model
from sparing.refresh import RefreshOptions, append_samples, fill, fit, refresh

from .conftest import outputs_of

IDS = [f"s{i:03d}" for i in range(200)]


class Counting:
    """A model that looks at the value alone, and writes down what it was asked for."""

    def __init__(self, name):
        self.name, self.asked = name, []

    @property
    def model(self):
        def function(ids, values):
            self.asked += ids
            return outputs_of(self.name, values)

        return Model(self.name, f"d:{self.name}", function, batch_size=8)


def table(values, etags=None):
    columns = {"id": IDS, "value": list(values)}
    if etags is not None:
        columns["etag"] = list(etags)
    return pa.table(columns)


def samples_of(by, values):
    """Samples whose values are these; with a column that changes with them."""
    return open_samples(table(values, [f"e{value}" for value in values]), column="value")


@pytest.fixture(params=["value", "etag"])
def by(request):
    return request.param


def made(tmp_path, by, values=range(200)):
    old = Counting("old")
    return fill(tmp_path / "c.lance", old.model, samples_of(by, list(values)), fingerprint=by).path


def changed_values(which):
    return [1000 + i if i in which else i for i in range(200)]


@pytest.mark.parametrize("scorer", [None, "entropy"])
@pytest.mark.parametrize("budget", ["10rows", "40rows", "100%"])
def test_changed_samples_are_run_first_and_reported(tmp_path, by, scorer, budget):
    path = made(tmp_path, by)
    which = set(range(3, 200, 10))  # 20 of them
    new = Counting("new")
    options = RefreshOptions(budget=budget, scorer=scorer)
    report = refresh(path, [new.model], options, samples=samples_of(by, changed_values(which)))
    rows = {"10rows": 10, "40rows": 40, "100%": 200}[budget]
    assert (report.refreshed, report.changed) == (rows, min(rows, 20))
    assert {IDS.index(name) for name in new.asked[:20]} <= which
    assert sum(IDS.index(name) in which for name in new.asked) == min(rows, 20)
    # A second time, what is left of them comes first again, and only that.
    again = Counting("new")
    report = refresh(path, [again.model], RefreshOptions(budget="20rows", scorer=scorer),
                     samples=samples_of(by, changed_values(which)))  # fmt: skip
    left = 20 - min(rows, 20)
    assert report.changed == left
    assert sum(IDS.index(name) in which for name in again.asked) == left


def test_rows_of_the_target_itself_are_run_again_once_their_sample_has_changed(tmp_path, by):
    path = made(tmp_path, by)
    old = Counting("old")
    report = refresh(path, [old.model], RefreshOptions(budget="100%", scorer="entropy"),
                     samples=samples_of(by, changed_values({7, 8})))  # fmt: skip
    assert old.asked == ["s007", "s008"] or sorted(old.asked) == ["s007", "s008"]
    assert (report.refreshed, report.changed) == (2, 2)
    rows = Cache.open(path).get(["s007", "s008"])
    np.testing.assert_allclose(rows.probs, outputs_of("old", [1007, 1008]), atol=1e-3)
    none = Counting("old")
    report = refresh(path, [none.model], RefreshOptions(budget="100%", scorer="entropy"),
                     samples=samples_of(by, changed_values({7, 8})))  # fmt: skip
    assert (none.asked, report.left) == ([], 0)


def test_a_change_of_other_columns_runs_nothing(tmp_path):
    path = tmp_path / "c.lance"
    before = table(range(200), ["a"] * 200).append_column("note", pa.array(["x"] * 200))
    fill(path, Counting("old").model, open_samples(before, column="value"), fingerprint="value")
    after = table(range(200), ["b"] * 200).append_column("note", pa.array(["y"] * 200))
    old = Counting("old")
    report = refresh(path, [old.model], RefreshOptions(budget="100%", scorer="entropy"),
                     samples=open_samples(after, column="value"))  # fmt: skip
    assert (old.asked, report.left) == ([], 0)


def test_a_cache_without_fingerprints_notes_them_from_then_on(tmp_path, by):
    path = tmp_path / "c.lance"
    fill(path, Counting("old").model, samples_of(by, list(range(200))))
    before = {name: Cache.open(path).get([name]).probs for name in IDS[:3]}
    opened = Cache.open(path)
    opened.add_fingerprints(by, Fingerprints(samples_of(by, list(range(200))), by).of)
    assert Cache.open(path).metadata.fingerprint == by
    for name, probs in before.items():
        np.testing.assert_array_equal(Cache.open(path).get([name]).probs, probs)
    new = Counting("new")
    report = refresh(path, [new.model], RefreshOptions(budget="5rows", scorer="entropy"),
                     samples=samples_of(by, changed_values({100})))  # fmt: skip
    assert (new.asked[0], report.changed) == ("s100", 1)
    Cache.open(path).convert("int8")
    Cache.open(path).compact(keep_rounds=0)
    assert Cache.open(path).get(["s001"]).inputs.all()


def test_appended_rows_have_fingerprints_and_fit_leaves_changed_rows_out(tmp_path, by):
    path = made(tmp_path, by, range(200))
    Cache.open(path).delete(IDS[150:])
    assert append_samples(path, Counting("old").model, samples_of(by, list(range(200)))) == 50
    which = {1, 160}
    now = samples_of(by, changed_values(which))
    new = Counting("new")
    refresh(path, [new.model], RefreshOptions(budget="1rows", scorer="entropy"), samples=now)
    fitted = Counting("other")
    fit(path, [fitted.model], samples=now, rows=199)
    assert {IDS.index(name) for name in fitted.asked} & which == {IDS.index(name) for name in new.asked}


def test_a_round_that_pools_stores_the_output_of_the_changed_sample_alone(tmp_path):
    values = list(range(200))
    labelled = table(values).append_column("label", pa.array([i % 5 for i in values]))
    path = tmp_path / "c.lance"
    fill(path, Counting("old").model, open_samples(labelled, column="value"), fingerprint="value")
    after = changed_values({4})
    relabelled = table(after).append_column("label", pa.array([i % 5 for i in values]))
    refresh(path, [Counting("new").model],
            RefreshOptions(budget="100rows", scorer="entropy", objective="accuracy"),
            samples=open_samples(relabelled, column="value"))  # fmt: skip
    row = Cache.open(path).get(["s004"])
    np.testing.assert_allclose(row.probs, outputs_of("new", [1004]), atol=1e-3)
    assert Cache.open(path).metadata.models[int(row.models[0])].name == "new"


def test_rollback_brings_the_rows_back_as_they_were(tmp_path, by):
    path = made(tmp_path, by)
    refresh(path, [Counting("new").model], RefreshOptions(budget="50%", scorer="entropy"),
            samples=samples_of(by, changed_values({3})))  # fmt: skip
    Cache.open(path).rollback(0)
    new = Counting("new")
    report = refresh(path, [new.model], RefreshOptions(budget="5rows", scorer="entropy"),
                     samples=samples_of(by, changed_values({3, 4})))  # fmt: skip
    assert report.changed == 2
    assert set(new.asked[:2]) == {"s003", "s004"}


def test_a_missing_fingerprint_column_is_named(tmp_path):
    with pytest.raises(InputError, match="no column 'etag'"):
        fill(tmp_path / "c.lance", Counting("old").model, open_samples(table(range(200))), fingerprint="etag")
    path = made(tmp_path, "etag")
    with pytest.raises(InputError, match="no column 'etag'"):
        refresh(path, [Counting("new").model], RefreshOptions(budget="5rows"), samples=table(range(200)))


@pytest.mark.parametrize("scorer", [None, "entropy"])
def test_identical_samples_are_run_once(tmp_path, scorer):
    values = [i // 4 for i in range(200)]
    old = Counting("old")
    path = fill(tmp_path / "c.lance", old.model, samples_of("value", values)).path
    account = Cache.open(path).metadata.history[0]["account"]
    assert len(old.asked) == account["forwards"]["old"]
    assert len(old.asked) + account["reused_rows"] == 200
    assert len(old.asked) < 80
    new = Counting("new")
    report = refresh(path, [new.model], RefreshOptions(budget="100%", scorer=scorer),
                     samples=samples_of("value", values))  # fmt: skip
    assert report.refreshed == 200
    assert report.account["forwards"]["new"] == len(new.asked)
    assert report.account["forwards"]["new"] + report.account["reused_rows"] == 200
    assert report.account["reused_rows"] > 50
    rows = Cache.open(path).get(IDS)
    np.testing.assert_allclose(rows.probs, outputs_of("new", values), atol=1e-3)


def test_what_fails_once_fails_for_all_identical_samples(tmp_path):
    def function(ids, values):
        if 7 in values:
            raise ValueError("no sevens")
        return outputs_of("m", values)

    values = [7 if i % 20 == 0 else i for i in range(200)]
    tables = []
    cache = fill(tmp_path / "c.lance", Model("m", "d", function, batch_size=8), samples_of("value", values),
                 on_failures=tables.append)  # fmt: skip
    failed = {name for name, value in zip(IDS, values, strict=True) if value == 7}
    assert set(tables[0]["id"].to_pylist()) == failed
    assert set(cache.ids().to_pylist()) == set(IDS) - failed


def test_at_the_command_line(sparing_in, tmp_path):
    run = sparing_in(tmp_path)
    pq.write_table(table(range(200), ["a"] * 200), tmp_path / "s.parquet")
    assert run("cache", "fill", "c.lance", "--model", "m=m.py:m", "--samples", "s.parquet", "--column",
               "value", "--fingerprint", "etag").returncode == 0  # fmt: skip
    pq.write_table(table(range(200), ["b"] + ["a"] * 199), tmp_path / "s.parquet")
    done = run("refresh", "c.lance", "--model", "n=m.py:m", "--samples", "s.parquet", "--column", "value",
               "--budget", "5rows", "--scorer", "entropy")  # fmt: skip
    assert "of which 1 rows whose sample had changed" in done.stdout
    done = run(
        "cache", "fingerprint", "c.lance", "--samples", "s.parquet", "--column", "value", "--of", "value"
    )
    assert "whose value has changed" in done.stdout


@pytest.fixture
def sparing_in():
    import os
    import subprocess
    import sys

    def at(folder):
        (folder / "m.py").write_text(
            "import numpy as np\n\n\ndef m(values):\n    return np.full((len(values), 3), 1 / 3)\n"
        )

        def run(*arguments):
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            command = [sys.executable, "-c", "from sparing.cli.main import main; main()", *arguments]
            return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)

        return run

    return at
