"""Rows that fail: the others are kept, they keep what they held, and all is counted."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.cache import Cache
from sparing.errors import FailedRowsWarning, InputError, ModelError
from sparing.models import Model
from sparing.refresh import Correction, RefreshOptions, append_samples, fill, fit, refresh
from sparing.refresh.failures import FailureLimit, Tally

from .conftest import CLASSES, outputs_of


class Poor:
    """A model that fails on some samples, and counts every sample that it was asked for."""

    def __init__(self, name="new", bad=(), nan=(), cost=None, killed_at=None, batch_size=8):
        self.name, self.bad, self.nan, self.cost = name, set(bad), set(nan), cost
        self.killed_at, self.batch_size = killed_at, batch_size
        self.asked = []

    @property
    def model(self):
        def function(ids, values):
            self.asked += ids
            if self.killed_at is not None and len(self.asked) > self.killed_at:
                raise KeyboardInterrupt
            if self.bad & set(ids):
                raise ValueError(f"no words in {sorted(self.bad & set(ids))}")
            outputs = outputs_of(self.name, values)
            outputs[[name in self.nan for name in ids]] = np.nan
            return outputs

        return Model(
            self.name, f"d:{self.name}", function, cost=self.cost, unit="dollars", batch_size=self.batch_size
        )


@pytest.fixture
def told():
    tables = []
    return tables, tables.append


def run(w, model, told, budget="50%", **options):
    return refresh(
        w.path,
        [model],
        RefreshOptions(budget=budget, scorer="entropy", **options),
        samples=w.samples,
        on_failures=told[1],
    )


def test_rows_that_fail_keep_what_they_held_and_the_rest_is_refreshed(world, told):
    w = world(100)
    before = w.stored()
    poor = Poor(bad=["s0003", "s0040"], nan=["s0077"], cost=0.5)
    report = run(w, poor.model, told, "100%")
    bad = {"s0003", "s0040", "s0077"}
    assert w.ids_of("new") == set(w.samples) - bad
    after = w.stored()
    for name in w.samples:
        wanted = before[name][0] if name in bad else outputs_of("new", [w.samples[name]])[0]
        np.testing.assert_allclose(after[name][0], wanted, atol=1e-3)
    (table,) = told[0]
    assert set(table["id"].to_pylist()) == bad
    assert set(table["model"].to_pylist()) == {"new"}
    reasons = dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert "ValueError: no words in ['s0003']" in reasons["s0003"]
    assert "'s0077' holds NaN" in reasons["s0077"]
    assert (report.refreshed, report.failed, report.account["failed_rows"]) == (97, 3, 3)
    assert {row["id"] for row in report.failures} == bad
    # Every forward that the model was asked for is in the account, and in money.
    assert report.account["forwards"] == {"new": 97}
    assert report.account["wasted_forwards"] == len(poor.asked) - 97
    assert report.account["wasted_cost"] == {"dollars": 0.5 * (len(poor.asked) - 97)}
    assert len(poor.asked) <= 100 + 3 * 8


def test_the_next_round_tries_them_again_and_nothing_else(world, told):
    w = world(60)
    run(w, Poor(bad=["s0003"]).model, told, "100%")
    mended = Poor()
    report = run(w, mended.model, told, "100%")
    assert mended.asked == ["s0003"]
    assert (report.refreshed, report.failed) == (1, 0)
    assert len(told[0]) == 1


def test_without_anyone_to_tell_a_warning_says_it(world):
    w = world(60)
    with pytest.warns(FailedRowsWarning, match=r"1 rows failed .* 's0003': .*no words"):
        refresh(w.path, [Poor(bad=["s0003"]).model], RefreshOptions(budget="100%"), samples=w.samples)


@pytest.mark.parametrize("scorer", ["entropy", None])
def test_a_model_that_only_fails_is_stopped_soon(world, told, scorer):
    w = world(1000)
    poor = Poor(bad=w.samples)
    with pytest.raises(ModelError, match=r"20 of 20 rows failed.*no words"):
        refresh(w.path, [poor.model], RefreshOptions(budget="100%", scorer=scorer), samples=w.samples)
    assert len(poor.asked) == 20 + 3 * 8  # one by one, after a batch each
    mended = Poor()
    report = refresh(w.path, [mended.model], RefreshOptions(budget="100%", scorer=scorer), samples=w.samples)
    assert (report.refreshed, report.failed) == (1000, 0)
    assert report.account["wasted_forwards"] == 44


def test_a_service_that_goes_down_keeps_what_was_paid(world, told):
    w = world(1000)
    names = [name for name in w.samples if w.samples[name] % 2]
    poor = Poor(bad=names[-300:], batch_size=1)
    with pytest.raises(ModelError, match="in a row"):
        fill(w.path.with_name("new.lance"), poor.model, w.samples)
    good = len(set(poor.asked) - poor.bad)
    assert good > 390
    mended = Poor(batch_size=1)
    fill(w.path.with_name("new.lance"), mended.model, w.samples, on_failures=told[1])
    assert len(mended.asked) == 1000 - good


def test_of_few_rows_that_all_fail_nothing_is_stored(world, told):
    w = world(60)
    with pytest.raises(ModelError, match="all 5 rows failed"):
        run(w, Poor(bad=w.samples).model, told, "5rows")
    assert Cache.open(w.path).version == 1


def test_max_failures(world, told):
    w = world(200)
    bad = list(w.samples)[::10]  # a tenth
    with pytest.raises(ModelError, match="at most 3 rows may"):
        run(w, Poor(bad=bad).model, told, "100%", max_failures=3)
    with pytest.raises(ModelError, match="at most 5% of the rows may"):
        run(w, Poor(bad=bad).model, told, "100%", max_failures="5%")
    report = run(w, Poor(bad=bad).model, told, "100%", max_failures="20rows")
    assert (report.refreshed, report.failed) == (180, 20)
    for wrong in ("many", "-1", "2s", "200%", ""):
        with pytest.raises(InputError, match="max failures"):
            run(w, Poor().model, told, max_failures=wrong)


def test_a_limit_is_counted_by_hand():
    tally = Tally(FailureLimit(rows=1))
    tally.fail("a", of_model=True)
    assert not tally.exceeded
    tally.fail("b", of_model=False)
    assert tally.exceeded
    share = Tally(FailureLimit.parse("10%"))
    share.succeed(180)
    for _ in range(20):
        share.fail("c", of_model=True)
    assert not share.exceeded  # 20 of 200
    share.fail("d", of_model=True)
    assert share.exceeded
    row = Tally()
    for _ in range(19):
        row.fail("e", of_model=True)
    assert not row.exceeded
    row.fail("f", of_model=True)
    assert row.exceeded
    unreadable = Tally(done=1000)
    for _ in range(100):
        unreadable.fail("g", of_model=False)
    assert not unreadable.exceeded


def test_fill_and_append_leave_failed_samples_out(world, told, tmp_path):
    w = world(1)
    samples = {f"x{i:02d}": i for i in range(60)}
    poor = Poor("m", bad=["x07"])
    made = fill(tmp_path / "c.lance", poor.model, samples, on_failures=told[1])
    assert set(made.ids().to_pylist()) == set(samples) - {"x07"}
    account = made.metadata.history[0]["account"]
    assert (account["forwards"], account["failed_rows"], account["wasted_forwards"]) == ({"m": 59}, 1, 9)
    # The same samples again: only what failed is left to add.
    with pytest.raises(ModelError, match="all 1 rows failed"):
        append_samples(tmp_path / "c.lance", poor.model, samples, on_failures=told[1])
    more = {**samples, "x60": 60}
    assert append_samples(tmp_path / "c.lance", poor.model, more, on_failures=told[1]) == 1
    mended = Poor("m")
    assert append_samples(tmp_path / "c.lance", mended.model, more, on_failures=told[1]) == 1
    assert mended.asked == ["x07"]
    assert [table["id"].to_pylist() for table in told[0]] == [["x07"], ["x07"]]
    assert w is not None


def test_fit_leaves_failed_rows_out(world, told):
    w = world(400)
    asked = Poor("new")
    fit(w.path, [asked.model], samples=w.samples, rows=100)
    w = world(400, "again.lance")
    poor = Poor("new", bad=asked.asked[10:12])
    ranker = fit(w.path, [poor.model], samples=w.samples, rows=100, on_failures=told[1])
    assert ranker.candidates[0].name == "new"
    assert set(told[0][0]["id"].to_pylist()) == set(asked.asked[10:12])
    report = run(w, Poor("new").model, told, "40%")
    assert report.account["fit_forwards"] == {"new": 98}
    assert report.account["wasted_forwards"] == len(poor.asked) - 98


def test_samples_that_cannot_be_read_cost_no_forward(tmp_path, told):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.txt").write_text("word " * number)
    table = pa.table(
        {"id": [f"{n:02d}" for n in range(40)], "path": [f"texts/{n:02d}.txt" for n in range(40)]}
    )
    pa.parquet.write_table(table, tmp_path / "samples.parquet")
    (folder / "05.txt").unlink()
    lengths = []

    def function(ids, values):
        lengths.extend(values)
        return np.full((len(ids), CLASSES), 1 / CLASSES)

    made = fill(
        tmp_path / "c.lance",
        Model("m", "d", function, batch_size=8),
        tmp_path / "samples.parquet",
        on_failures=told[1],
    )
    assert len(made) == len(lengths) == 39
    (table,) = told[0]
    assert table["id"].to_pylist() == ["05"]
    assert "cannot be read" in table["reason"][0].as_py()
    assert made.metadata.history[0]["account"]["wasted_forwards"] == 0


@pytest.mark.parametrize("objective", ["consistency", "accuracy"])
def test_correction_goes_on_without_comparisons_and_votes_that_failed(world, told, objective):
    w = world(400)
    first, second, third = (Poor(name) for name in ("one", "two", "three"))
    run(w, first.model, told)
    whole = {}
    for name in ("fine", "poor"):
        bad = []
        if name == "poor":
            bad = [i for i in w.samples if w.samples[i] % 7 == 0]
        copied = w.path.with_name(f"{name}.lance")
        import shutil

        shutil.copytree(w.path, copied)
        recent = [Poor("one", bad=bad).model]
        for candidate in (second, Poor("three", bad=bad)):
            report = refresh(
                copied,
                [candidate.model],
                RefreshOptions(
                    budget="30%",
                    scorer="entropy",
                    correction=Correction(recent=recent),
                    objective=objective,
                    max_failures="100%",
                ),
                samples=w.samples,
                on_failures=told[1],
            )
            recent = [*recent, Poor("two", bad=bad).model]
        whole[name] = report
    assert third is not None
    assert whole["fine"].failed == 0
    assert whole["poor"].failed > 0
    assert 0 < whole["poor"].corrected <= whole["fine"].corrected


@settings(max_examples=25, deadline=None)
@given(
    bad=st.sets(st.integers(0, 79), max_size=8),
    kills=st.lists(st.integers(0, 120), max_size=3),
    batch_size=st.sampled_from([1, 4, 8, 64]),
    scorer=st.sampled_from([None, "entropy"]),
)
def test_any_failures_and_kills_end_as_an_undisturbed_round_does(
    tmp_path_factory, bad, kills, batch_size, scorer
):
    from sparing.cache import ModelInfo

    ids = [f"s{i:04d}" for i in range(80)]
    samples = {name: i for i, name in enumerate(ids)}
    bad = {ids[i] for i in bad}
    ended = []
    for disturbed in (False, True):
        path = tmp_path_factory.mktemp("w") / "c.lance"
        chunk = (pa.array(ids), outputs_of("old", range(80)), None)
        Cache.create(path, [chunk], ModelInfo("old", "d:old"))
        options = RefreshOptions(budget="70%", scorer=scorer, max_failures="50%")
        asked = 0
        for kill in [*(kills if disturbed else []), None]:
            poor = Poor(bad=bad, killed_at=kill, batch_size=batch_size)
            try:
                report = refresh(path, [poor.model], options, samples=samples, on_failures=lambda _: None)
            except KeyboardInterrupt:
                asked += len(poor.asked)
                continue
            asked += len(poor.asked)
            break
        rows = Cache.open(path).get(ids)
        ended.append((rows.probs, rows.models, report.refreshed, report.failed))
        account = report.account
        # A kill while the rows of a batch are tried one by one forgets those of them that were tried.
        forgotten = batch_size * len(kills) if disturbed else 0
        assert sum(account["forwards"].values()) + account["wasted_forwards"] >= asked - forgotten
        for row, model in enumerate(rows.models):
            assert model == 0 or ids[row] not in bad
    np.testing.assert_array_equal(ended[0][1], ended[1][1])
    np.testing.assert_array_equal(ended[0][0], ended[1][0])
    assert ended[0][2:] == ended[1][2:]
