"""A cache whose models know different classes: outputs are laid out by name."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.cache import Cache, ModelInfo, export
from sparing.errors import CacheError, InputError
from sparing.models import Model
from sparing.refresh import RefreshOptions, append_samples, fit, preview, refresh
from sparing.refresh.pooling.pools import Held, Pools

OLD = ("cat", "dog", "unknown")
NEW = ("fox", "noise", "dog", "cat")
UNION = ("cat", "dog", "noise", "fox")
RENAME = {"unknown": "noise"}


def probs_of(names, classes, n):
    """Distributions that put 0.7 on one class each, by name."""
    result = np.full((n, len(classes)), 0.3 / (len(classes) - 1), dtype=np.float32)
    for row, name in enumerate(names):
        result[row, classes.index(name)] = 0.7
    return result


def old_name(i):
    return OLD[i % 3]


def new_name(i):
    return ("fox", "noise", "dog", "cat")[(i * 7) % 4]


def new_model(classes=NEW, name="new", **options):
    def function(ids, _):
        numbers = [int(one[1:]) for one in ids]
        return probs_of([new_name(i) for i in numbers], list(classes), len(ids))

    return Model(name, f"d:{name}", function, needs_samples=False, classes=classes, **options)


def make(tmp_path, n=120, encoding="float16", name="c.lance", classes=OLD):
    ids = pa.array([f"s{i:04d}" for i in range(n)])
    probs = probs_of([old_name(i) for i in range(n)], list(OLD), n)
    labels = np.arange(n) % 3
    return Cache.create(
        tmp_path / name, [(ids, probs, labels)], ModelInfo("old", "d:old"), encoding=encoding, classes=classes
    )


def answers(path):
    cache = Cache.open(path)
    rows = cache.get(cache.ids())
    names, models = cache.metadata.classes, [model.name for model in cache.metadata.models]
    return {
        one: (names[at], models[model])
        for one, at, model in zip(rows.ids.to_pylist(), rows.probs.argmax(axis=1), rows.models, strict=True)
    }


@pytest.mark.parametrize("encoding", ["float16", "float32", "int8", "int4", "top2-int8"])
@pytest.mark.parametrize("scorer", [None, "entropy"])
def test_rows_answer_by_name_whichever_model_wrote_them(tmp_path, encoding, scorer):
    cache = make(tmp_path, encoding=encoding)
    options = RefreshOptions(budget="50%", rename=RENAME, scorer=scorer)
    report = refresh(cache.path, [new_model()], options)
    assert report.refreshed == 60
    found = answers(cache.path)
    renamed = [RENAME.get(name, name) for name in map(old_name, range(120))]
    assert [model for _, model in found.values()].count("new") == 60
    for i, (name, model) in enumerate(found.values()):
        assert name == (new_name(i) if model == "new" else renamed[i])
    metadata = Cache.open(cache.path).metadata
    assert metadata.classes == UNION
    assert {m.name: m.classes for m in metadata.models} == {"old": ("cat", "dog", "noise"), "new": NEW}


def test_old_outputs_keep_zero_mass_on_classes_that_are_new(tmp_path):
    cache = make(tmp_path)
    before = cache.get(cache.ids()).probs
    refresh(cache.path, [new_model()], RefreshOptions(budget="1rows", rename=RENAME))
    after = Cache.open(cache.path)
    rows = after.get(after.ids())
    kept = rows.models == 0
    assert kept.sum() == 119
    np.testing.assert_array_equal(rows.probs[kept, :3], before[kept])
    assert not rows.probs[kept, 3].any()
    np.testing.assert_array_equal(rows.labels, np.arange(120) % 3)


def test_the_same_command_twice_and_a_rollback(tmp_path):
    cache = make(tmp_path)
    options = RefreshOptions(budget="25%", rename=RENAME)
    refresh(cache.path, [new_model()], options)
    refresh(cache.path, [new_model()], options)
    assert [model for _, model in answers(cache.path).values()].count("new") == 60
    ops = [entry["op"] for entry in Cache.open(cache.path).metadata.history]
    assert ops == ["import", "classes", "refresh", "refresh"]
    with Cache.open(cache.path).lock():
        opened = Cache.open(cache.path)
        opened.rollback(0)
        assert opened.metadata.classes == UNION  # the newest version of round 0 has them already
        assert not opened.get(opened.ids()).models.any()


def test_the_classes_of_a_model_that_is_known_need_no_repetition(tmp_path):
    cache = make(tmp_path)
    refresh(cache.path, [new_model()], RefreshOptions(budget="25%", rename=RENAME))
    nameless = replace(new_model(), classes=None)
    refresh(cache.path, [nameless], RefreshOptions(budget="25%"))
    assert all(n == new_name(i) for i, (n, m) in enumerate(answers(cache.path).values()) if m == "new")
    with pytest.raises(CacheError, match="rows of 'new' with other classes, or in another order"):
        refresh(cache.path, [new_model(classes=tuple(reversed(NEW)))], RefreshOptions(budget="25%"))


def test_a_preview_changes_nothing(tmp_path):
    cache = make(tmp_path)
    seen = preview(cache.path, [new_model()], RefreshOptions(budget="50%", rename=RENAME))
    assert seen.refresh == {"new": 60}
    assert Cache.open(cache.path).version == cache.version


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rename": {"unkown": "nose"}}, "there is no class 'unkown', and no 'nose'"),
        ({"rename": {"unknown": "cat"}}, "'cat' and 'unknown' would both be named 'cat'; two classes cannot"),
        ({"rename": RENAME, "scorer": "no such"}, "no such"),
    ],
)
def test_what_is_wrong_is_said_before_the_cache_changes(tmp_path, options, message):
    cache = make(tmp_path)
    with pytest.raises(InputError, match=message):
        refresh(cache.path, [new_model()], RefreshOptions(budget="50%", **options))
    assert Cache.open(cache.path).version == cache.version


def test_a_cache_without_names_says_how_to_name_them(tmp_path):
    cache = make(tmp_path, classes=None)
    with pytest.raises(InputError, match=r"3 classes without names.*since model 'new' has 4: `sparing cache"):
        refresh(cache.path, [new_model()], RefreshOptions(budget="50%"))
    with cache.lock():
        Cache.open(cache.path).name_classes(OLD)
    refresh(cache.path, [new_model()], RefreshOptions(budget="50%", rename=RENAME))
    assert Cache.open(cache.path).metadata.classes == UNION


def test_what_fit_ran_is_stored_by_name_and_survives_a_wider_list(tmp_path):
    cache = make(tmp_path)
    with Cache.open(cache.path).lock():
        Cache.open(cache.path).name_classes(("cat", "dog", "noise"), RENAME)
    fit(cache.path, [new_model()], rows=40)
    third = new_model(classes=("owl", *NEW), name="third")
    refresh(cache.path, [third], RefreshOptions(budget="10rows"))
    report = refresh(cache.path, [new_model()], RefreshOptions(budget="40rows"))
    assert report.account["fit_forwards"] == {"new": 40}
    found = answers(cache.path)
    assert [model for _, model in found.values()].count("new") == 40
    assert all(n == new_name(i) for i, (n, m) in enumerate(found.values()) if m != "old")


def test_another_round_that_is_staged_is_not_disturbed(tmp_path):
    cache = make(tmp_path)

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refresh(
            cache.path,
            [
                replace(
                    new_model(),
                    classes=None,
                    function=lambda ids, _: probs_of(["cat"] * len(ids), OLD, len(ids)),
                )
            ],
            RefreshOptions(budget="50%"),
            on_progress=stop,
        )
    options = RefreshOptions(budget="50%", rename=RENAME)
    second = new_model(name="second")
    with pytest.raises(CacheError, match="an unfinished round is staged"):
        refresh(cache.path, [second], options)
    refresh(cache.path, [second], options, unfinished="discard")
    assert Cache.open(cache.path).metadata.classes == UNION


def test_a_round_over_new_classes_resumes(tmp_path):
    whole, killed = make(tmp_path), make(tmp_path, name="killed.lance")
    options = RefreshOptions(budget="80%", rename=RENAME)
    refresh(whole.path, [new_model()], options)
    calls = 0

    def stop(progress):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refresh(killed.path, [new_model()], options, on_progress=stop)
    refresh(killed.path, [new_model()], options)
    for cache in (whole, killed):
        export(Cache.open(cache.path), cache.path.with_suffix(".parquet"))
    a, b = (pq.read_table(cache.path.with_suffix(".parquet")) for cache in (whole, killed))
    assert a.equals(b)


def test_appended_rows_of_a_model_with_other_classes(tmp_path):
    cache = make(tmp_path)
    model = replace(new_model(), needs_samples=True)
    append_samples(cache.path, model, {"s9000": 0, "s9001": 1})
    found = answers(cache.path)
    assert found["s9000"] == (new_name(9000), "new")
    assert Cache.open(cache.path).metadata.classes == (*OLD, "fox", "noise")


def test_exports_answer_by_name(tmp_path):
    cache = make(tmp_path)
    refresh(cache.path, [new_model()], RefreshOptions(budget="50%", rename=RENAME))
    export(Cache.open(cache.path), tmp_path / "o.parquet")
    table = pq.read_table(tmp_path / "o.parquet")
    assert table["prediction"].to_pylist() == [name for name, _ in answers(cache.path).values()]
    assert set(table["source"].to_pylist()) == {"run"}
    shutil.rmtree(cache.path)
    unnamed = make(tmp_path, classes=None)
    export(unnamed, tmp_path / "o.parquet")
    assert pq.read_table(tmp_path / "o.parquet")["prediction"].to_pylist() == [i % 3 for i in range(120)]


def test_pooling_leaves_new_classes_to_the_model_that_knows_them(tmp_path):
    cache = make(tmp_path, n=6)
    with cache.lock():
        cache.name_classes(UNION, RENAME)
    old = cache.get(cache.ids())
    pools = Pools(cache.metadata.with_model(ModelInfo("new", "d:new")), {}, 0)
    new = np.tile(np.array([[0.1, 0.1, 0.2, 0.6]], np.float32), (6, 1))
    pooled, _ = pools.join(Held(old.ids, old.probs, old.models), new, "new")
    np.testing.assert_allclose(pooled[:, 3], 0.6, rtol=1e-6)
    np.testing.assert_allclose(pooled.sum(axis=1), 1, rtol=1e-5)
    # Among the others the old output counts: its class gains on what the new model says alone.
    for row, name in zip(pooled, map(old_name, range(6)), strict=True):
        at = UNION.index(RENAME.get(name, name))
        assert row[at] / 0.4 > new[0, at] / 0.4
