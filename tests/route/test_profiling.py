import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.route.conftest import image, linear, png

from sparing.data.samples import open_samples
from sparing.errors import InputError, LockedError, ModelError, StorageError
from sparing.images import decode, variants
from sparing.models import Model, from_callable, load_model
from sparing.route import filling
from sparing.route.profiling import open_profile
from sparing.route.profiling import profile as run_profile
from sparing.storage.locks import write_lock

FOUR = variants("blur,noise")
NUMBERS = open_samples({i: float(i) for i in range(300)})


def profile(experts, samples, out, **options):
    return run_profile(experts, samples, out, **{"repeats": 10, "seconds": 0.2, **options})


class Counting:
    """An expert that notes what it was asked, and may fail."""

    def __init__(self, name, scale, digest=None):
        self.asked = []
        self.fail_at = None
        self.scale = scale
        self.model = from_callable(self, name=name, digest=digest or f"d:{name}", batch_size=32, logits=True)

    def __call__(self, values):
        if self.fail_at is not None and len(self.asked) >= self.fail_at:
            raise ValueError("out of memory")
        self.asked += values
        return np.outer(values, [0, 1, 2]) * self.scale / 300


@pytest.fixture
def pair():
    return [Counting("small", 1), Counting("large", -2)]


def models(pair):
    return [one.model for one in pair]


def expected(numbers, scales=(1, -2)):
    z = np.stack([np.outer(numbers, [0, 1, 2]) * scale / 300 for scale in scales], axis=1)
    return z - np.log(np.exp(z).sum(axis=2, keepdims=True))


def test_outputs_are_those_of_the_experts_themselves(experts, images, tmp_path):
    samples = open_samples(images)
    made = profile(experts, samples, tmp_path / "p", variants=FOUR)
    live = [load_model(f"{name}={target}") for name, target in experts.items()]
    for opened in (made, open_profile(tmp_path / "p")):
        for variant in FOUR:
            values = variant.apply(samples.ids, list(images.values()))
            by_hand = np.stack([model.log_probs(list(images), values) for model in live], axis=1)
            np.testing.assert_allclose(opened.outputs(samples, variant), by_hand, atol=1e-5)


def test_what_is_written_is_what_is_opened(experts, images, tmp_path):
    made = profile(experts, images, tmp_path / "p", costs={"small": (0.1, "cost"), "large": (1, "cost")})
    opened = open_profile(tmp_path / "p")
    assert opened == made
    assert [expert.name for expert in opened.experts] == ["small", "large"]
    for expert, model in zip(opened.experts, (load_model(f"m={t}") for t in experts.values()), strict=True):
        assert expert.digest == model.digest
        assert (expert.single.batch_size, expert.batched.batch_size) == (1, 32)
        assert expert.single.calls == expert.batched.calls == 10
        assert 0 < expert.single.median <= expert.single.p95
    assert opened.decoding.median > 0
    assert [expert.cost for expert in opened.experts] == [0.1, 1]
    assert "Python" in opened.machine


def test_stored_outputs_are_not_run_again(pair, tmp_path):
    made = profile(models(pair), NUMBERS, tmp_path / "p")
    asked = [len(one.asked) for one in pair]
    np.testing.assert_allclose(made.outputs(NUMBERS), expected(np.arange(300)), atol=1e-6)
    shuffled = open_samples([(f"x{i}", float(i)) for i in reversed(range(100, 200))])
    np.testing.assert_allclose(made.outputs(shuffled), expected(np.arange(199, 99, -1)), atol=1e-6)
    assert [len(one.asked) for one in pair] == asked


def test_equal_ids_of_other_tables_do_not_mix(pair, tmp_path):
    made = profile(models(pair), NUMBERS, tmp_path / "p")
    before = len(pair[0].asked)
    other = open_samples({i: float(i + 250) for i in range(100)})
    np.testing.assert_allclose(made.outputs(other), expected(np.arange(250, 350)), atol=1e-6)
    assert sorted(pair[0].asked[before:]) == [float(i) for i in range(300, 350)]


def test_equal_contents_are_run_once(pair, tmp_path):
    samples = open_samples({i: float(i % 7) for i in range(200)})
    made = profile(models(pair), {"s": 0.0, "t": 1.0}, tmp_path / "p")
    before = len(pair[0].asked)
    np.testing.assert_allclose(made.outputs(samples), expected(np.arange(200) % 7), atol=1e-6)
    assert sorted(pair[0].asked[before:]) == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_an_expert_that_fails_halfway_loses_one_chunk(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "_FETCH", 32)
    monkeypatch.setattr(filling, "_LARGEST", 32)
    pair[1].fail_at = 200
    with pytest.raises(ModelError, match=r"'large' failed on a batch of 32 .*ValueError: out of memory"):
        profile(models(pair), NUMBERS, tmp_path / "p")
    first = len(pair[1].asked)
    assert not (tmp_path / "p" / "profile.json").exists()
    pair[1].fail_at = None
    seen = []
    again = [Counting("small", 1), Counting("large", -2)]
    made = profile(models(again), NUMBERS, tmp_path / "p", progress=seen.append)
    np.testing.assert_allclose(made.outputs(NUMBERS), expected(np.arange(300)), atol=1e-6)
    kept = (first - 1) // 32 * 32  # the probe is no chunk
    assert seen[0].done == kept == 224
    assert (seen[-1].done, seen[-1].total, seen[-1].left) == (300, 300, 0)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    rerun = again[0].asked[1 : 1 + 300 - kept]
    assert rerun == [float(i) for i in range(kept, 300)]


def test_chunks_take_about_ten_seconds_and_whole_fetches():
    assert filling._chunk_rows(0.1, 128) == 128
    assert filling._chunk_rows(40, 128) == 384
    assert filling._chunk_rows(1e9, 128) == 8192
    assert filling._chunk_rows(1e9, 10_000) == 10_000


KILLED = """
import os, signal, sys
import numpy as np
from sparing.models import from_callable
from sparing.route import filling
from sparing.route.profiling import profile
filling._FETCH = filling._LARGEST = 16
asked = 0
def answer(values):
    global asked
    asked += len(values)
    if asked > 100:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.outer(values, [0, 1, 2]) / 300
experts = [from_callable(answer, name=n, digest="d:" + n, batch_size=16, logits=True) for n in ("a", "b")]
profile(experts, {i: float(i) for i in range(200)}, sys.argv[1])
"""


def test_a_kill_loses_one_chunk(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "p"], check=False)
    assert done.returncode == -9
    again = [Counting("a", 1), Counting("b", 1)]
    seen = []
    samples = open_samples({i: float(i) for i in range(200)})
    made = profile(models(again), samples, tmp_path / "p", progress=seen.append)
    assert seen[0].done == 48  # three chunks of 16 for two experts, and the probe, come before the kill
    np.testing.assert_allclose(made.outputs(samples), expected(np.arange(200), (1, 1)), atol=1e-6)


def test_accuracy_by_variant(experts, tmp_path):
    """One expert looks at red, the other at green; corruption with noise alone leaves plain colours clear."""
    weights = np.zeros((2, 48, 3))
    weights[0, :16, 1] = 1  # red
    weights[1, 16:32, 2] = 1  # green
    targets = {n: linear(tmp_path / f"{n}.onnx", w) for n, w in zip(("red", "green"), weights, strict=True)}
    colours = {"none": (0, 0, 0), "red": (255, 0, 0), "green": (0, 255, 0), "dark": (0, 0, 0)}
    values = [png(np.full((8, 8, 3), colour, np.uint8)) for colour in colours.values()]
    table = pa.table({"id": list(colours), "image": values, "label": pa.array([0, 1, 2, None])})
    samples = open_samples(table)
    made = profile(targets, samples, tmp_path / "p")
    np.testing.assert_allclose(made.accuracy(samples), [2 / 3, 2 / 3])
    assert made.accuracy(open_samples({"s": values[0]})) is None
    wrong = open_samples(table.set_column(2, "label", pa.array([0, 1, 3, None])))
    with pytest.raises(InputError, match=r"id 'green' has the label 3 .*the experts know 3 classes"):
        made.accuracy(wrong)
    with pytest.raises(InputError, match="has the label 3"):
        profile(targets, wrong, tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_other_experts_are_refused(pair, tmp_path):
    profile(models(pair), NUMBERS, tmp_path / "p")
    others = [pair[0].model, Counting("large", 1, digest="d:new").model]
    with pytest.raises(InputError, match=r"small \(d:small\), large \(d:large\), not .* large \(d:new\)"):
        profile(others, NUMBERS, tmp_path / "p")
    with pytest.raises(InputError, match="holds the outputs of"):
        profile(models(pair)[::-1], NUMBERS, tmp_path / "p")
    shutil.rmtree(tmp_path / "p" / "outputs.lance")
    with pytest.raises(InputError, match="holds the outputs of"):
        profile(others, NUMBERS, tmp_path / "p")
    profile(others, NUMBERS, tmp_path / "q")
    shutil.copytree(tmp_path / "q" / "outputs.lance", tmp_path / "p" / "outputs.lance")
    with pytest.raises(InputError, match="holds the outputs of"):
        open_profile(tmp_path / "p")


def test_an_expert_that_has_changed_is_refused(experts, images, tmp_path):
    profile(experts, images, tmp_path / "p")
    linear(Path(experts["large"]), np.ones((48, 3)))
    opened = open_profile(tmp_path / "p")
    assert opened.outputs(open_samples(images)).shape == (20, 2, 3)
    fresh = open_samples({"new": png(np.zeros((9, 9, 3), np.uint8))})
    with pytest.raises(InputError, match=r"'large' has changed since .*large.onnx is sha256:"):
        opened.outputs(fresh)
    with pytest.raises(InputError, match="holds the outputs of small"):
        profile(experts, images, tmp_path / "p")


def test_an_opened_profile_runs_what_is_missing(experts, images, tmp_path):
    first = dict(list(images.items())[:5])
    profile(experts, first, tmp_path / "p")
    rest = open_samples(images)
    found = open_profile(tmp_path / "p").outputs(rest)
    live = [load_model(f"{name}={target}") for name, target in experts.items()]
    by_hand = np.stack([model.log_probs(list(images), list(images.values())) for model in live], axis=1)
    np.testing.assert_allclose(found, by_hand, atol=1e-5)


def test_models_given_as_objects_cannot_be_loaded_again(pair, tmp_path):
    profile(models(pair), NUMBERS, tmp_path / "p")
    opened = open_profile(tmp_path / "p")
    assert opened.outputs(NUMBERS).shape == (300, 2, 3)
    with pytest.raises(InputError, match="'small' was given as an object"):
        opened.outputs(open_samples({"new": 1000.0}))


def test_an_expert_that_decodes_for_itself_sees_the_same(experts, images, tmp_path):
    """The same network behind a callable: it gets encoded images, corrupted ones too."""
    inner = load_model(f"own={experts['small']}")

    def own(ids, values):
        assert all(isinstance(value, bytes) for value in values)
        return inner.function(
            ids, [decode(value, f"id {name!r}") for name, value in zip(ids, values, strict=True)]
        )

    pair = [load_model(f"small={experts['small']}"), Model("own", "d:own", own, logits=True)]
    made = profile(pair, images, tmp_path / "p", variants=FOUR)
    for variant in FOUR:
        found = made.outputs(open_samples(images), variant)
        np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda values: np.full((len(values), 3), np.nan), "'bad': id 0 holds NaN"),
        (lambda values: np.full((len(values) + 1, 3), 1 / 3), r"'bad' returned shape \(2, 3\)"),
        (lambda values: np.full((len(values), 4), 1 / 4), r"3 \(small\), 4 \(bad\)"),
        (lambda values: 1 / 0, "'bad' failed on the sample 0: ZeroDivisionError"),
    ],
)
def test_bad_answers_are_told_before_anything_is_stored(pair, tmp_path, answer, message):
    with pytest.raises(ModelError, match=message):
        profile([pair[0].model, from_callable(answer, name="bad", digest="d")], NUMBERS, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    assert len(pair[0].asked) == 1


def test_nan_later_on_names_the_sample(pair, tmp_path):
    values = {**{f"s{i}": float(i) for i in range(40)}, "odd": float("nan")}
    with pytest.raises(ModelError, match=r"id 'odd' holds NaN"):
        profile(models(pair), values, tmp_path / "p")


def test_bad_input(pair, experts, images, tmp_path):
    with pytest.raises(InputError, match="there are no samples"):
        profile(models(pair), {}, tmp_path / "p")
    with pytest.raises(InputError, match=r"the image of id 'p3' cannot be decoded"):
        profile(experts, {**images, "p3": b"nothing"}, tmp_path / "p")
    with pytest.raises(InputError, match="id 0"):
        profile(models(pair), NUMBERS, tmp_path / "q", variants=FOUR)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        profile(models(pair), NUMBERS, tmp_path / "file")
    with pytest.raises(StorageError, match="could not be written"):
        profile(models(pair), NUMBERS, tmp_path / "file" / "below")


def test_damage_is_told(pair, tmp_path):
    with pytest.raises(InputError, match=r"no profile here .*`sparing route profile` makes one"):
        open_profile(tmp_path)
    profile(models(pair), NUMBERS, tmp_path / "p")
    written = tmp_path / "p" / "profile.json"
    good = json.loads(written.read_text())
    del good["checksum"]
    for bad in ("{", "[]", "{}", json.dumps({**good, "experts": [{}, {}]}), b"\xff\xfe"):
        written.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
        with pytest.raises(InputError, match=r"profile.json: "):
            open_profile(tmp_path / "p")
    written.write_text(json.dumps({**good, "format": 99}))
    with pytest.raises(InputError, match=r"newer release of Sparing \(format 99"):
        open_profile(tmp_path / "p")
    asked = len(pair[0].asked)
    mended = profile(models(pair), NUMBERS, tmp_path / "p")  # writes it anew, and runs nothing but latency
    assert open_profile(tmp_path / "p") == mended
    assert len(pair[0].asked) == asked + 1 + 12 + 12 * 32  # the probe, one at a time, batches
    for data in (tmp_path / "p" / "outputs.lance" / "data").iterdir():
        data.write_bytes(b"")
    with pytest.raises(InputError, match=r"outputs.lance: damaged"):
        open_profile(tmp_path / "p").outputs(NUMBERS)


def test_one_writer_at_a_time(pair, tmp_path):
    made = profile(models(pair), NUMBERS, tmp_path / "p")
    with made._lock():
        assert made.outputs(NUMBERS).shape == (300, 2, 3)
        with pytest.raises(LockedError):
            made.outputs(open_samples({"new": 1000.0}))


def test_nothing_missing_needs_neither_the_lock_nor_the_experts(pair, tmp_path):
    run_profile(models(pair), NUMBERS, tmp_path / "p", repeats=10, seconds=0.01)
    opened = open_profile(tmp_path / "p")  # whose experts, given as objects, cannot be loaded again
    with write_lock(tmp_path / "p" / "lock"):
        assert opened.fill(NUMBERS, variants(None)) == 0
        assert opened.outputs(NUMBERS).shape == (300, 2, 3)
    with pytest.raises(InputError, match="given as an object"):
        opened.fill(open_samples({"new": 0.5}), variants(None))


def test_a_profile_of_version_0_1_gives_what_it_stored():
    saved = Path(__file__).parents[1] / "files" / "0.1" / "route"
    opened = open_profile(saved / "profile")
    assert [expert.name for expert in opened.experts] == ["small", "large"]
    table = pa.table({"id": [f"p{i}" for i in range(4)], "image": [png(image(i)) for i in range(4)]})
    assert np.array_equal(opened.outputs(open_samples(table)), np.load(saved / "outputs.npy"))
