import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from sparing.cache import Cache, ModelInfo
from sparing.errors import BudgetError, InputError, ModelError
from sparing.evaluate.methods import METHODS, Method
from sparing.evaluate.replay import simulate
from sparing.models import Model
from sparing.numerics.selection import tie_keys
from sparing.refresh import Correction, RefreshOptions, fit, preview, refresh
from sparing.refresh.correction.rules import Schedule, Step

C = 4
M = 400
IDS = [f"r{i:03d}" for i in range(M)]
SCHEDULE = Schedule()


def exact(seed):
    """Distributions that the cache's float16 holds exactly: 64 units dealt out over the classes."""
    rng = np.random.default_rng(seed)
    rows = [rng.multinomial(64, rng.dirichlet(np.full(C, 0.5))) for _ in range(M)]
    return np.array(rows, dtype=np.float32) / 64


MODELS = [exact(seed) for seed in range(5)]
LABELS = np.random.default_rng(9).integers(0, C, M)


class Told:
    """A model that looks its answers up and writes down what it was asked."""

    def __init__(self, number, fail_after=None):
        self.number, self.seen, self.fail_after = number, [], fail_after

    def model(self, **options):
        def function(ids, values):
            if self.fail_after is not None and len(self.seen) >= self.fail_after:
                raise RuntimeError("told to fail")
            self.seen += ids
            return MODELS[self.number][values]

        return Model(f"m{self.number}", f"d:{self.number}", function, batch_size=8, **options)


@pytest.fixture
def path(tmp_path):
    chunk = (pa.array(IDS), MODELS[0], LABELS)
    Cache.create(tmp_path / "c.lance", [chunk], ModelInfo("m0", "d:0"))
    return tmp_path / "c.lance"


SAMPLES = {name: i for i, name in enumerate(IDS)}


def update(path, t, told=None, **options):
    told = told or {}
    models = {j: told.get(j, Told(j)).model() for j in range(1, t + 1)}
    recent = options.pop("recent", [models[j] for j in range(1, t)])
    schedule, within = options.pop("schedule", SCHEDULE), options.pop("within_budget", False)
    correction = Correction(schedule=schedule, recent=recent, within_budget=within)
    asked = RefreshOptions(**{"budget": "50%", "correction": correction, **options})
    return refresh(path, [models[t]], asked, samples=SAMPLES)


def stored(path):
    cache = Cache.open(path)
    rows = cache.get(IDS)
    return rows, [cache.metadata.models[index].name for index in rows.models]


def tables():
    return [(IDS, probs, LABELS) for probs in MODELS]


def reference(within):
    """Four corrected rounds by entropy, row by row, with no code of the package: what each round did."""
    tie = {i: int(key) for i, key in enumerate(tie_keys(IDS))}
    stored, holds = MODELS[0].copy(), [0] * M
    accumulated, last = np.zeros(M), np.full(M, 0.5)
    for t, (screen, settle, window) in enumerate(((0, 0, 0), (40, 18, 2), (48, 24, 3), (56, 30, 3)), start=1):
        voters = range(max(t - window + 1, 1), t + 1)
        benefit = [sum(-p * math.log(p) for p in row.tolist() if p > 0) for row in stored]
        capacity = M // 2 - (screen + settle * (len(voters) - 1) if within and window else 0)
        best = sorted(range(M), key=lambda i: (-round(benefit[i], 6), tie[i]))
        chosen, rest = best[:capacity], best[capacity:]
        normalised = [(1 + math.tanh(b)) / 2 for b in benefit]
        accumulated += normalised
        risk = [accumulated[i] + 1.5 * math.exp(-(last[i] ** 2) / (2 * 0.22**2)) for i in range(M)]
        screened = sorted(rest, key=lambda i: (-round(risk[i], 5), tie[i]))[:screen]
        # The rounds so far predict the same of every model, so each row is compared with the newest.
        apart = {i: divergence(stored[i], MODELS[t][i]) for i in screened}
        settled = sorted(screened, key=lambda i: (-round(apart[i], 6), tie[i]))[:settle]
        votes = 0
        for i in settled:
            votes += len(set(voters) - {t, holds[i]})
            holds[i] = elected(i, voters)
            stored[i] = MODELS[holds[i]][i]
        for i in chosen:
            stored[i], holds[i] = MODELS[t][i], t
        for i in (*chosen, *settled):
            accumulated[i], last[i] = 0, normalised[i]
        yield (len(chosen), len(screened), len(settled), len(screened), votes), list(holds)


def divergence(a, b):
    middle = (a + b) / 2
    return sum(
        x * math.log(x / m) / 2
        for side in (a, b)
        for x, m in zip(side.tolist(), middle.tolist(), strict=True)
        if x > 0
    )


def elected(i, voters):
    """The most recent voter for the label with most votes, among equals that of the larger mean."""
    labels = [int(MODELS[j][i].argmax()) for j in voters]
    mean = {label: float(np.mean([MODELS[j][i, label] for j in voters])) for label in labels}
    order = [(labels.count(label), mean[label], j) for label, j in zip(labels, voters, strict=True)]
    return max(order)[2]


@pytest.mark.parametrize("within", [False, True])
def test_four_rounds_agree_with_a_reference(path, within):
    for t, (counts, holds) in enumerate(reference(within), start=1):
        report = update(path, t, within_budget=within)
        account = report.account
        forwards = [sum(account[f"{kind}_forwards"].values()) for kind in ("screening", "voting")]
        assert (report.refreshed, report.screened, report.corrected, *forwards) == counts
        assert report.complete
        if within:
            assert sum(account["forwards"].values()) <= M // 2
        _, names = stored(path)
        assert names == [f"m{number}" for number in holds]


@pytest.mark.parametrize("within", [False, True])
def test_four_rounds_agree_with_the_replay(path, within, monkeypatch):
    monkeypatch.setitem(METHODS, "corrected", Method("entropy", correct=True))
    simulation = simulate(tables(), methods="corrected", seeds=1)
    replay = (simulation.within_budget if within else simulation.methods)["corrected"]
    for t in range(1, 5):
        report = update(path, t, within_budget=within)
        assert report.corrected == replay.corrected[0, t - 1]
        assert sum(report.account["forwards"].values()) == replay.forwards[0, t - 1]
        assert report.accuracy == pytest.approx(replay.accuracy[0, t])
        rows, _ = stored(path)
        same = (rows.probs.argmax(axis=1) == MODELS[t].argmax(axis=1)).mean()
        assert same == pytest.approx(replay.consistency[0, t])
    assert replay.screened[0].tolist() == [0, 40, 48, 56]
    assert replay.corrected[0].tolist() == [0, 18, 24, 30]


def test_rows_hold_what_their_model_said(path):
    for t in range(1, 4):
        update(path, t)
    rows, names = stored(path)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(rows.probs[i], MODELS[int(name[1])][i])


def test_the_first_round_is_not_corrected(path):
    report = update(path, 1)
    assert (report.screened, report.corrected, report.account["screening_forwards"]) == (0, 0, {})


def test_a_vote_is_an_effective_refresh(path):
    update(path, 1)
    before, _ = stored(path)
    report = update(path, 2)
    after, _ = stored(path)
    assert (after.rounds == 2).sum() == report.refreshed + report.corrected
    skipped = after.rounds < 2
    np.testing.assert_array_equal(after.probs[skipped], before.probs[skipped])


def test_models_that_are_not_given_again_are_not_run(path):
    update(path, 1)
    new = Told(2)
    report = update(path, 2, {2: new}, recent=[])
    # Each screened row is compared with the new model; what rows hold of the other votes without a forward.
    assert report.account["screening_forwards"] == {"m2": 40}
    assert report.account["voting_forwards"] == {}
    assert report.corrected == 18
    assert len(new.seen) == len(set(new.seen)) == 240


@pytest.mark.parametrize("fail_after", [30, 220, 330, 450])
def test_after_a_failure_in_any_part_the_same_call_goes_on(path, tmp_path, fail_after):
    other = tmp_path / "other.lance"
    Cache.create(other, [(pa.array(IDS), MODELS[0], LABELS)], ModelInfo("m0", "d:0"))
    for where in (path, other):
        update(where, 1)
        update(where, 2)
    schedule = Schedule(steps=(Step(0.5, 0.9, 3),))
    whole = update(other, 3, schedule=schedule)
    first = {j: Told(j) for j in (1, 2)}
    count = {"n": 0}

    def limited(told):
        model = told.model()

        def function(ids, values):
            if count["n"] >= fail_after:
                raise RuntimeError("told to fail")
            count["n"] += len(ids)
            return model.function(ids, values)

        return replace(model, function=function)

    trio = [limited(told) for told in (first[1], first[2], Told(3))]
    correction = Correction(schedule=schedule, recent=trio[:2])
    options = RefreshOptions(budget="50%", correction=correction)
    with pytest.raises(ModelError):
        refresh(path, [trio[2]], options, samples=SAMPLES)
    assert Cache.open(path).metadata.round == 2
    fail_after = 10**9
    report = refresh(path, [trio[2]], options, samples=SAMPLES)
    for key in ("forwards", "screening_forwards", "voting_forwards"):
        assert report.account[key] == whole.account[key]
    total = sum(report.account["forwards"].values())
    assert count["n"] - total <= 128 * 2
    a, b = stored(path), stored(other)
    np.testing.assert_array_equal(a[0].probs, b[0].probs)
    assert a[1] == b[1]
    assert total > 450


def test_a_rollback_takes_the_correction_with_it(path):
    update(path, 1)
    update(path, 2)
    before, names = stored(path)
    update(path, 3)
    Cache.open(path).rollback(2)
    again, names_again = stored(path)
    np.testing.assert_array_equal(before.probs, again.probs)
    assert names == names_again
    first = update(path, 3)
    assert first.screened == 48


def test_a_ranker_is_asked_again_what_it_said(path):
    ranker = fit(path, [Told(1).model()], samples=SAMPLES, rows=60, epochs=2)
    update(path, 1, ranker=ranker)
    ranker = fit(path, [Told(2).model()], samples=SAMPLES, rows=60, epochs=2)
    assert update(path, 2, ranker=ranker).corrected == 18
    ranker = fit(path, [Told(3).model()], samples=SAMPLES, rows=60, epochs=2)
    report = update(path, 3, ranker=ranker, scorer="change")
    assert (report.screened, report.corrected) == (48, 24)
    assert update(path, 4).screened == 56  # this round by entropy, after two by rankers and one by change


def test_a_preview_says_how_much_correction_may_take(path):
    update(path, 1)
    models = [Told(1).model(), Told(2).model()]
    seen = preview(
        path,
        [models[1]],
        RefreshOptions(budget="50%", correction=Correction(recent=[models[0]], within_budget=True)),
    )
    assert seen.correction == 40 + 18
    assert seen.forwards == {"m2": 200 - 58}


def test_bad_requests(path):
    with pytest.raises(BudgetError, match="budget of time runs until it is spent"):
        update(path, 1, budget="5s")
    with pytest.raises(InputError, match="the objective is consistency or accuracy"):
        update(path, 1, objective="speed")
