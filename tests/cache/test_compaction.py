import itertools

import lance
import numpy as np
import pyarrow as pa
import pytest
from tests.cache.test_store import refresh, table_of
from tests.conftest import distributions

from sparing.cache import Cache, ModelInfo
from sparing.cache.compaction import FILES, TIERS, due


def fragments(cache):
    return lance.dataset(str(cache.path)).get_fragments()


@pytest.mark.parametrize(
    ("rows", "deleted", "wanted"),
    [
        ([], [], []),
        ([1000], [500], []),
        ([1000], [501], [[0]]),
        ([1000, 9, 2000], [501, 0, 1999], [[0], [2]]),
        ([20_000] + [25] * 7, [0] * 8, []),
        ([20_000] + [25] * 8, [0] * 9, [[*range(1, 9)]]),
        ([20_000] + [25] * 8, [10_001, 0, 20] + [0] * 6, [[*range(1, 9)], [0]]),
        ([20_000] + [7] * 7 + [8], [0] * 9, []),
        # The largest files that are due, and all smaller ones.
        ([20_000] + [200] * 8 + [7] * 9 + [600], [0] * 19, [[*range(1, 18)]]),
        ([8**TIERS] * 20, [0] * 20, []),
        ([8**TIERS - 1] * 8, [0] * 8, [[*range(8)]]),
    ],
)
def test_the_rule(rows, deleted, wanted):
    assert due(rows, deleted) == wanted


def test_rows_are_rewritten_once_per_tier():
    rng = np.random.default_rng(0)
    files, written, rewritten = [1_000_000], 0, 0
    for _ in range(3000):
        files.append(int(rng.integers(1, 60)))
        written += files[-1]
        for group in due(files, [0] * len(files)):
            merged = sum(files[at] for at in group)
            files = [each for at, each in enumerate(files) if at not in group] + [merged]
            rewritten += merged
        assert len(files) <= FILES * TIERS
    assert rewritten <= TIERS * written


def test_many_small_rounds_leave_few_files_and_every_row(make_cache):
    cache = make_cache(400)
    told = []
    for number in range(40):
        cache = Cache.open(cache.path)
        refresh(cache, [f"s{(7 * number + at) % 400:03d}" for at in range(3)], seed=number)
        before = table_of(cache)
        told.append(cache.compact_if_due())
        after = Cache.open(cache.path)
        assert all((row == before[i]).all() for i, row in table_of(after).items())
        assert len(after) == 400
    done = [each for each in told if each is not None]
    assert done
    assert len(fragments(cache)) < 1 + 2 * FILES
    assert sum(each["rows"] for each in done) <= 3 * 40 * 3 + 400
    assert [entry["op"] for entry in Cache.open(cache.path).metadata.history] == ["import", *["refresh"] * 40]
    # Every round can still be restored.
    cache = Cache.open(cache.path)
    for round_ in (0, 8, 23, 39):
        Cache.open(cache.path).rollback(round_)
        assert Cache.open(cache.path).metadata.round == round_


def test_mostly_deleted_files_are_rewritten(make_cache):
    cache = make_cache(100)
    cache.delete([f"s{at:03d}" for at in range(50)])
    assert cache.compact_if_due() is None
    cache.delete(["s050"])
    assert cache.compact_if_due() == {"files_before": 1, "files_after": 1, "rows": 49}
    assert [part.num_deletions for part in fragments(cache)] == [0]
    assert cache.compact_if_due() is None


def test_small_files_are_merged_around_one_that_is_not(make_cache):
    cache, numbers = make_cache(100), itertools.count()
    for size in (2, 2, 2, 100, 2, 2, 2, 2, 2):
        ids = pa.array([f"new{next(numbers):04d}" for _ in range(size)])
        cache.append([(ids, distributions(size), None)], ModelInfo("old", "d:old"))
        cache.compact_if_due()
    assert sorted(part.count_rows() for part in fragments(cache)) == [16, 100, 100]
    assert len(Cache.open(cache.path)) == 216


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("odd"), KeyboardInterrupt()]
)
def test_a_compaction_that_fails_changes_nothing(make_cache, monkeypatch, error):
    cache = make_cache(100)
    cache.delete([f"s{at:03d}" for at in range(60)])
    version, held = cache.version, {path for path in cache.path.rglob("*") if path.is_file()}

    def fails(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", fails)
        assert "failed" in cache.compact_if_due()
    left = {path for path in cache.path.rglob("*") if path.is_file()}
    assert {path for path in left - held if "_record" not in path.parts} == set()
    again = Cache.open(cache.path)
    assert (again.version, len(again)) == (version, 40)
    assert again.compact_if_due()["rows"] == 40


def test_a_staged_round_is_left_alone(make_cache):
    cache = make_cache(100)
    cache.delete([f"s{at:03d}" for at in range(60)])
    cache.staged_round.mkdir(parents=True)
    (cache.staged_round / "request.json").write_text('{"digest": "d", "what": "w"}')
    assert cache.compact_if_due() is None
