import numpy as np
import pyarrow as pa
import pytest
from tests.refresh.conftest import Recorder, outputs_of

from sparing.cache import Cache
from sparing.errors import CacheError, InputError, ModelError
from sparing.refresh import append_samples, fill
from sparing.refresh.staging import Staging


def samples(m, start=0):
    return {f"s{i:04d}": i for i in range(start, start + m)}


def test_a_model_fills_a_cache(tmp_path):
    table = pa.table({"id": list(samples(50)), "value": list(range(50)), "label": [i % 5 for i in range(50)]})
    cache = fill(tmp_path / "c.lance", Recorder("m").model(), table, classes=list("abcde"))
    rows = cache.get(list(samples(50)))
    np.testing.assert_allclose(rows.probs, outputs_of("m", range(50)), atol=6e-4)
    np.testing.assert_array_equal(rows.labels, np.arange(50) % 5)
    assert cache.metadata.classes == tuple("abcde")
    assert cache.metadata.history[0]["op"] == "fill"
    assert cache.metadata.history[0]["account"]["forwards"] == {"m": 50}
    assert cache.metadata.models[0].cost > 0
    assert [p.name for p in tmp_path.iterdir()] == ["c.lance"]


def test_after_a_failure_it_goes_on(tmp_path):
    model = Recorder("m", fail_at="s0500")
    with pytest.raises(ModelError):
        fill(tmp_path / "c.lance", model.model(), samples(1000))
    assert not (tmp_path / "c.lance").exists()
    model.fail_at = None
    assert len(fill(tmp_path / "c.lance", model.model(), samples(1000))) == 1000
    assert len(model.seen) <= 1000 + 128
    with pytest.raises(CacheError, match="exists already"):
        fill(tmp_path / "c.lance", model.model(), samples(1000))


def test_only_new_samples_are_run(tmp_path):
    fill(tmp_path / "c.lance", Recorder("m").model(), samples(50))
    model = Recorder("m")
    assert append_samples(tmp_path / "c.lance", model.model(), samples(60, start=30)) == 40
    assert sorted(model.seen) == sorted(samples(40, start=50))
    cache = Cache.open(tmp_path / "c.lance")
    assert len(cache) == 90
    np.testing.assert_allclose(cache.get(["s0089"]).probs, outputs_of("m", [89]), atol=6e-4)
    with pytest.raises(InputError, match="nothing to append"):
        append_samples(tmp_path / "c.lance", model.model(), samples(10))
    with pytest.raises(InputError, match="type"):
        append_samples(tmp_path / "c.lance", model.model(), {1: 1})


@pytest.mark.parametrize(("label", "named"), [(99, "99"), (2**40, str(2**40)), (-7, "-7")])
def test_a_label_that_is_no_class_is_refused_with_its_id(world, tmp_path, label, named):
    table = pa.table({"id": ["a", "b", "c"], "value": [1, 2, 3], "label": [0, label, 1]})
    with pytest.raises(InputError, match=f"'b' has the label {named} .*labels must be at least 0"):
        fill(tmp_path / "c.lance", Recorder("old").model(), table)
    w = world(10)
    recorder = Recorder("old")
    with pytest.raises(InputError, match=f"'b' has the label {named} .*labels must be at least 0"):
        append_samples(w.path, recorder.model(), table)
    assert recorder.seen == []  # nothing is paid for before the labels are known to be right


@pytest.mark.parametrize("begun", [True, False])
def test_what_a_kill_after_the_commit_has_left_is_dropped(tmp_path, monkeypatch, begun):
    path, clear = tmp_path / "c.lance", Staging.clear

    def killed(staging):
        if not (staging.folder / "chunk-000000000000-000008.arrow").exists():
            return clear(staging)  # what comes before the work
        if not begun:
            (staging.folder / "request.json").unlink()
        raise SystemExit

    for job in (
        lambda: fill(path, Recorder("m").model(), samples(50)),
        lambda: append_samples(path, Recorder("m").model(), samples(80)),
    ):
        monkeypatch.setattr(Staging, "clear", killed)
        with pytest.raises(SystemExit):
            job()
        monkeypatch.setattr(Staging, "clear", clear)
        with pytest.raises((CacheError, InputError), match="already"):
            job()
        assert [p.name for p in tmp_path.iterdir()] == ["c.lance"]
        assert not (path / "_sparing" / "append").exists()


def test_what_another_fill_has_staged_is_kept(tmp_path):
    with pytest.raises(ModelError):
        fill(tmp_path / "c.lance", Recorder("other", fail_at="s0500").model(), samples(1000))
    fill(tmp_path / "d.lance", Recorder("m").model(), samples(50)).path.rename(tmp_path / "c.lance")
    with pytest.raises(CacheError, match="exists already"):
        fill(tmp_path / "c.lance", Recorder("other").model(), samples(1000))
    assert (tmp_path / "c.lance.filling" / "request.json").exists()
