import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training a router needs torch")
pytest.importorskip("onnxscript", reason="exporting a router needs onnxscript")

import sparing  # noqa: E402
from sparing.errors import InputError, MissingExtraError  # noqa: E402
from sparing.images import CLEAN, Corruption  # noqa: E402
from sparing.models import from_callable  # noqa: E402
from sparing.route.fitting import Settings  # noqa: E402
from sparing.route.profiling import open_profile, profile  # noqa: E402
from sparing.route.router import open_router  # noqa: E402
from sparing.route.training import prepare, train  # noqa: E402
from sparing.storage.locks import write_lock  # noqa: E402


def image(value, seed):
    noise = np.random.default_rng(seed).integers(-20, 20, (24, 24, 3))
    stream = io.BytesIO()
    Image.fromarray(np.clip(value + noise, 0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_images(path, m=48, labelled=True):
    """Bright images are easy: the cheap expert is right on them. On dark ones it is wrong."""
    bright = np.arange(m) % 2
    columns = {"id": [f"p{i}" for i in range(m)]}
    columns["image"] = [image(40 + 160 * int(b), i) for i, b in enumerate(bright)]
    if labelled:
        columns["label"] = np.zeros(m, dtype=np.int64)
    pq.write_table(pa.table(columns), path)
    return path


def brightness(values):
    return np.array([np.asarray(Image.open(io.BytesIO(value))).mean() for value in values])


def cheap(values):
    right = np.where(brightness(values) > 120, 0.9, 0.1)
    return np.stack([right, 1 - right], axis=1)


def dear(values):
    import time

    time.sleep(0.004 * len(values))
    return np.tile([0.95, 0.05], (len(values), 1))


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("route")
    samples = write_images(folder / "train.parquet")
    experts = [from_callable(cheap, name="cheap"), from_callable(dear, name="dear")]
    made = profile(experts, samples, folder / "experts", repeats=5, seconds=0.2)
    return made, samples


QUICK = {"size": 16}


def test_a_trained_router_runs_without_torch_and_picks_by_difficulty(profiled, tmp_path, monkeypatch):
    made, samples = profiled
    settings = Settings("trade-off", 0.8, epochs=25, learning_rate=0.003)
    trained = train(made, samples, tmp_path / "router", settings=settings, **QUICK)
    router = open_router(tmp_path / "router")
    assert router.description == trained.description
    assert [expert.name for expert in router.experts] == ["cheap", "dear"]
    table = pq.read_table(samples)
    scores = router.scores(table["id"].to_pylist(), table["image"].to_pylist())
    picked = router.choose(scores)
    # It was told about one trade-off: bright images to the cheap expert, dark ones to the dear one.
    assert np.mean(picked == (np.arange(48) + 1) % 2) > 0.95
    assert sorted(path.name for path in (tmp_path / "router").iterdir()) == [
        "router.json",
        "router.onnx",
        "router.toml",
    ]
    assert router.description.single.median > 0


def test_the_exported_network_gives_the_scores_of_the_trained_one(profiled, tmp_path):
    made, samples = profiled
    captured = {}

    def backbone():
        captured["network"] = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.ReLU())
        return captured["network"]

    router = train(
        made, samples, tmp_path / "router", settings=Settings(epochs=2), backbone=backbone, **QUICK
    )
    table = pq.read_table(samples)
    scores = router.scores(table["id"].to_pylist()[:5], table["image"].to_pylist()[:5])
    small = [Image.open(io.BytesIO(v)).resize((16, 16), 2) for v in table["image"].to_pylist()[:5]]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    batch = np.stack([(np.asarray(one) / 255 - mean) / std for one in small]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        features = captured["network"](torch.tensor(batch, dtype=torch.float32)).mean(dim=(2, 3)).numpy()
    # The head is not at hand, but scores must be an affine function of the features.
    design = np.hstack([features, np.ones((5, 1))])
    residual = scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    assert np.abs(residual).max() < 1e-4
    one_by_one = np.vstack(
        [router.scores([i], [v]) for i, v in zip(range(5), table["image"].to_pylist()[:5], strict=True)]
    )
    np.testing.assert_allclose(one_by_one, scores, atol=1e-4)


def test_variants_are_profiled_once_and_trained_on(profiled, tmp_path):
    made, samples = profiled
    variants = (CLEAN, Corruption("severe", ("noise",)))
    stages = []
    router = train(
        made,
        samples,
        tmp_path / "router",
        settings=Settings(epochs=1),
        variants=variants,
        progress=lambda stage, done, _: stages.append((stage, done)),
        **QUICK,
    )
    assert router.description.training["variants"] == ["clean", "severe noise 0"]
    assert ("prepare", 96) in stages
    assert ("train", 1) in stages


def test_prepared_inputs_can_be_shared(profiled, tmp_path):
    made, samples = profiled
    inputs = prepare(samples, (CLEAN,), tmp_path / "inputs.npy", size=16)
    settings = Settings(epochs=2)
    shared = train(made, samples, tmp_path / "a", settings=settings, inputs=inputs, **QUICK)
    own = train(made, samples, tmp_path / "b", settings=settings, **QUICK)
    assert shared.description.training == own.description.training
    assert (tmp_path / "a" / "router.toml").read_text() == (tmp_path / "b" / "router.toml").read_text()
    with pytest.raises(InputError, match="48 prepared inputs for 48 samples in 2 variants"):
        train(
            made,
            samples,
            tmp_path / "c",
            settings=settings,
            inputs=inputs,
            variants=(CLEAN, Corruption("mild")),
            **QUICK,
        )


def test_numbers_need_no_images(tmp_path):
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((200, 5)).astype(np.float32)
    table = pa.table(
        {
            "id": np.arange(200),
            "value": pa.array(list(rows), pa.list_(pa.float32())),
            "label": np.zeros(200, dtype=np.int64),
        }
    )
    pq.write_table(table, tmp_path / "train.parquet")

    def easy(values):
        right = 1 / (1 + np.exp(-6 * np.stack(values)[:, 0]))
        return np.stack([right, 1 - right], axis=1)

    def sure(values):
        return np.tile([0.9, 0.1], (len(values), 1))

    experts = [from_callable(easy, name="easy"), from_callable(sure, name="sure")]
    made = profile(experts, tmp_path / "train.parquet", tmp_path / "experts", repeats=5, seconds=0.2)
    router = train(
        made,
        tmp_path / "train.parquet",
        tmp_path / "router",
        settings=Settings(epochs=40, learning_rate=0.01),
    )
    file = (tmp_path / "router" / "router.onnx").read_bytes()
    assert str(Path(sparing.__file__).parent).encode() not in file, "names a folder of this machine"
    assert b"site-packages" not in file
    chances = router.gains(router.scores(list(range(200)), list(rows)))
    assert np.mean((chances[:, 0] > 0.5) == (rows[:, 0] > 0)) > 0.95
    assert chances[:, 1].min() > 0.9


def test_what_cannot_be_trained_on(profiled, tmp_path):
    made, samples = profiled
    unlabelled = write_images(tmp_path / "unlabelled.parquet", labelled=False)
    with pytest.raises(InputError, match="have no labels"):
        train(made, unlabelled, tmp_path / "router", **QUICK)
    table = pq.read_table(samples)
    column = table.schema.get_field_index("label")
    for labels, said in (
        ([None] + [0] * 47, "'p0' has no label"),
        ([7] * 48, "'p0' has the label 7 .*the experts know 2 classes"),
    ):
        broken = table.set_column(column, "label", pa.array(labels, pa.int64()))
        pq.write_table(broken, tmp_path / "broken.parquet")
        with pytest.raises(InputError, match=said):
            train(made, tmp_path / "broken.parquet", tmp_path / "router", **QUICK)
    with pytest.raises(InputError, match="profile"):
        train(tmp_path, samples, tmp_path / "router", **QUICK)


def test_backbones_and_weights_that_do_not_fit(profiled, tmp_path):
    made, samples = profiled
    with pytest.raises(InputError, match="must be a torch module"):
        train(made, samples, tmp_path / "router", backbone=lambda: 3, **QUICK)
    with pytest.raises(InputError, match="brings its own"):
        train(made, samples, tmp_path / "router", backbone=torch.nn.Flatten, weights="w.pth", **QUICK)


def test_a_router_that_is_there_is_not_written_over(profiled, tmp_path):
    made, samples = profiled
    train(made, samples, tmp_path / "router", settings=Settings(epochs=1), **QUICK)
    before = (tmp_path / "router" / "router.json").read_bytes()
    with pytest.raises(InputError, match="holds a router already"):
        train(made, samples, tmp_path / "router", settings=Settings(epochs=1), **QUICK)
    assert (tmp_path / "router" / "router.json").read_bytes() == before


def test_a_training_that_was_stopped_is_taken_up_again(profiled, tmp_path):
    made, samples = profiled
    settings = Settings(epochs=3)

    class StopError(Exception):
        pass

    def stop(stage, done, _):
        if (stage, done) == ("train", 2):
            raise StopError

    with pytest.raises(StopError):
        train(made, samples, tmp_path / "stopped", settings=settings, progress=stop, **QUICK)
    assert (tmp_path / "stopped" / "training.pt").exists()
    (tmp_path / "stopped" / ".inputs-killed").mkdir()
    with pytest.raises(InputError, match="checkpoint of a training on other samples, experts or sizes"):
        train(made, samples, tmp_path / "stopped", settings=settings, **{**QUICK, "size": 40})
    seen = []
    resumed = train(
        made,
        samples,
        tmp_path / "stopped",
        settings=settings,
        progress=lambda stage, done, _: seen.append(done) if stage == "train" else None,
        **QUICK,
    )
    whole = train(made, samples, tmp_path / "whole", settings=settings, **QUICK)
    assert seen == [3]
    assert resumed.description.training["losses"] == whole.description.training["losses"]
    assert not list((tmp_path / "stopped").glob(".*"))


def test_two_trainings_do_not_share_a_folder(profiled, tmp_path):
    made, samples = profiled
    (tmp_path / "router").mkdir()
    with (
        write_lock(tmp_path / "router" / ".training.lock"),
        pytest.raises(InputError, match="another training is at work here"),
    ):
        train(made, samples, tmp_path / "router", settings=Settings(epochs=1), **QUICK)


def test_a_backbone_that_raises_is_said(profiled, tmp_path):
    made, samples = profiled

    def broken():
        raise KeyError("layers")

    with pytest.raises(InputError, match="the backbone cannot be made: KeyError: 'layers'"):
        train(made, samples, tmp_path / "g", settings=Settings(epochs=1), backbone=broken, **QUICK)


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("sparing.route.training", "sparing.route.fitting", "sparing.route.networks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(MissingExtraError, match=r"sparing\[torch\]"):
        importlib.import_module("sparing.route.training")


def test_the_profile_can_be_opened_by_its_folder(profiled, tmp_path):
    made, samples = profiled
    router = train(made.path, samples, tmp_path / "router", settings=Settings(epochs=1), **QUICK)
    saved = json.loads((tmp_path / "router" / "router.json").read_text())
    assert saved["experts"][0]["digest"] == open_profile(made.path).experts[0].digest
    assert router.path == tmp_path / "router"


def test_without_onnxscript_nothing_is_trained(profiled, tmp_path, monkeypatch):
    made, samples = profiled
    monkeypatch.setattr("sparing.route.training.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"onnxscript.*sparing\[torch\]"):
        train(made, samples, tmp_path / "router", **QUICK)
    assert not (tmp_path / "router").exists()
