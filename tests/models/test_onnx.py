import hashlib
import io
import os
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from sparing.data.samples import open_samples
from sparing.errors import ModelError
from sparing.models import load_model, run

OPSET = [helper.make_opsetid("", 17)]


def save(path, nodes, inputs, outputs, constants=()):
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in constants]
    )
    onnx.save(helper.make_model(graph, opset_imports=OPSET, ir_version=9), path)
    return path


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def linear(path, weights, kind=TensorProto.FLOAT, batch="n", softmax=True):
    """x (n, features) @ weights, through a softmax unless it is to return logits."""
    features, classes = weights.shape
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"])]
    if kind != TensorProto.FLOAT:
        nodes.insert(0, helper.make_node("Cast", ["raw"], ["x"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Softmax" if softmax else "Identity", ["z"], ["y"]))
    feed = info("x" if kind == TensorProto.FLOAT else "raw", kind, [batch, features])
    return save(
        path,
        nodes,
        [feed],
        [info("y", TensorProto.FLOAT, [batch, classes])],
        [("w", weights.astype(np.float32))],
    )


def pixels(path, shape=("n", 3, "h", "w"), kind=TensorProto.FLOAT):
    """Return one pixel per channel as it arrives, as two "logits": the input's first and last value."""
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["flat"], axis=1),
        helper.make_node("Gather", ["flat", "ends"], ["y"], axis=1),
    ]
    constants = [("ends", np.array([0, -1], np.int64))]
    return save(
        path, nodes, [info("image", kind, list(shape))], [info("y", TensorProto.FLOAT, ["n", 2])], constants
    )


def encode(array, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3))
X = RNG.normal(size=(10, 4)).astype(np.float32)


def load(path, toml=None, **options):
    if toml is not None:
        Path(path).with_suffix(".toml").write_text(toml)
    return load_model(f"m={path}", **options)


def test_numbers_without_a_description(tmp_path):
    model = load(linear(tmp_path / "m.onnx", W))
    for values in (list(X), [row.tolist() for row in X]):
        probs, _ = run(model, list(range(10)), values)
        np.testing.assert_allclose(probs, softmax(X @ W), atol=1e-5)


def test_logits_are_declared_or_named(tmp_path):
    path = linear(tmp_path / "m.onnx", W, softmax=False)
    with pytest.raises(ModelError, match="look like logits"):
        load(path)(list(range(10)), list(X))
    probs = load(path, "[output]\nlogits = true")(list(range(10)), list(X))
    np.testing.assert_allclose(probs, softmax(X @ W), atol=1e-5)


def test_numbers_are_scaled_and_centred(tmp_path):
    toml = "[input]\nscale = 2\nmean = [1, 2, 3, 4]\nstd = 4\ndtype = 'float32'"
    model = load(linear(tmp_path / "m.onnx", W), toml)
    expected = softmax((X * 2 - [1, 2, 3, 4]) / 4 @ W)
    np.testing.assert_allclose(model(list(range(10)), list(X)), expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 3, 64])
def test_a_fixed_batch_is_padded(tmp_path, batch_size):
    model = load(linear(tmp_path / "m.onnx", W, batch=4), batch_size=batch_size)
    assert model.batch_size == 4
    probs, _ = run(model, list(range(10)), list(X))
    np.testing.assert_allclose(probs, softmax(X @ W), atol=1e-5)


def test_single_numbers_feed_a_column(tmp_path):
    model = load(linear(tmp_path / "m.onnx", W[:1]))
    np.testing.assert_allclose(model([1, 2], [0.5, 2]), softmax(np.array([[0.5], [2]]) @ W[:1]), atol=1e-6)


def test_integers_must_fit(tmp_path):
    model = load(linear(tmp_path / "m.onnx", W, kind=TensorProto.UINT8))
    probs = model([1, 2], [[1, 0, 0, 0], [0.0, 1.0, 0, 0]])
    np.testing.assert_allclose(probs, softmax(W[:2]), atol=1e-5)
    for bad in (300, -1, 0.5, float("nan")):
        with pytest.raises(ModelError, match="value of id 'b' does not fit the model's type uint8"):
            model(["a", "b"], [[0, 0, 0, 0], [0, 0, 0, bad]])


@pytest.mark.parametrize("shape", [["n"], ["n", 1]])
def test_text(tmp_path, shape):
    """Class 1 where the text is "yes"."""
    yes = {"keys_strings": ["yes"], "values_int64s": [1], "default_int64": 0}
    nodes = [
        helper.make_node("LabelEncoder", ["x"], ["k"], domain="ai.onnx.ml", **yes),
        helper.make_node("Reshape", ["k", "flat"], ["r"]),
        helper.make_node("OneHot", ["r", "depth", "offon"], ["y"]),
    ]
    constants = [
        ("flat", np.array([-1])),
        ("depth", np.array([2])),
        ("offon", np.array([0, 1], np.float32)),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.STRING, shape)],
        [info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(v, k) for k, v in constants],
    )
    opsets = [*OPSET, helper.make_opsetid("ai.onnx.ml", 2)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(model([1, 2, 3], ["yes", "no", "yés"]), [[0, 1], [1, 0], [1, 0]])
    with pytest.raises(ModelError, match="value of id 2 is bytes, but the model takes text"):
        model([1, 2], ["yes", b"yes"])


COLOURS = [
    np.array([[[255, 0, 51], [102, 51, 204]]] * 2, np.uint8),
    np.array([[[10, 20, 30], [40, 50, 60]]] * 2, np.uint8),
]


def first_and_last(arrays):
    return np.stack([np.asarray(a).ravel()[[0, -1]] for a in arrays])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_images_are_decoded_scaled_and_laid_out(tmp_path, layout, kind):
    shape = ("n", 3, "h", "w") if layout == "NCHW" else ("n", "h", "w", 3)
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.4, 0.3])
    toml = (
        f'[input]\ndecode = "image"\nlayout = "{layout}"\nmean = {mean.tolist()}\nstd = {std.tolist()}\n'
        "[output]\nlogits = true"
    )
    model = load(pixels(tmp_path / "m.onnx", shape, kind), toml)
    arrays = [(c / 255 - mean) / std for c in COLOURS]
    if layout == "NCHW":
        arrays = [a.transpose(2, 0, 1) for a in arrays]
    expected = softmax(first_and_last(arrays))
    probs = model([1, 2], [encode(c) for c in COLOURS])
    np.testing.assert_allclose(probs, expected, atol=1e-5 if kind == TensorProto.FLOAT else 1e-2)


def test_a_stated_scale_replaces_the_default(tmp_path):
    model = load(
        pixels(tmp_path / "m.onnx"), '[input]\ndecode = "image"\nscale = 0.01\n[output]\nlogits = true'
    )
    expected = softmax(first_and_last([c.transpose(2, 0, 1) * 0.01 for c in COLOURS]))
    np.testing.assert_allclose(model([1, 2], [encode(c) for c in COLOURS]), expected, atol=1e-5)


def test_bytes_reach_an_integer_input_as_they_are(tmp_path):
    path = pixels(tmp_path / "m.onnx", ("n", "h", "w", 3), TensorProto.UINT8)
    model = load(path, '[input]\ndecode = "image"\nlayout = "NHWC"\n[output]\nlogits = true')
    dark = [c // 64 for c in COLOURS]
    np.testing.assert_allclose(
        model([1, 2], [encode(c) for c in dark]), softmax(first_and_last(dark).astype(float)), atol=1e-5
    )


def test_grey_and_other_modes(tmp_path):
    toml = '[input]\ndecode = "image"\n[output]\nlogits = true'
    grey = np.array([[0, 255], [51, 204]], np.uint8)
    one = load(pixels(tmp_path / "grey.onnx", ("n", 1, "h", "w")), toml)
    np.testing.assert_allclose(one([1], [encode(grey)]), softmax(np.array([[0, 0.8]])), atol=1e-5)
    three = load(pixels(tmp_path / "rgb.onnx"), toml)
    rgba = np.dstack([grey, grey, grey, np.full_like(grey, 7)])
    for image in (encode(grey), encode(rgba)):
        np.testing.assert_allclose(three([1], [image]), softmax(np.array([[0, 0.8]])), atol=1e-5)


def test_images_of_differing_size_need_a_resize(tmp_path):
    path = pixels(tmp_path / "m.onnx")
    values = [encode(COLOURS[0]), encode(np.full((3, 5, 3), 128, np.uint8))]
    toml = '[input]\ndecode = "image"\n{}\n[output]\nlogits = true'
    with pytest.raises(ModelError, match="image of id 'b' is 5 x 3 pixels, that of id 'a' 2 x 2"):
        load(path, toml.format(""))(["a", "b"], values)
    probs = load(path, toml.format("resize = [4, 6]"))(["a", "b"], values)
    resized = [
        np.asarray(Image.open(io.BytesIO(v)).resize((6, 4), Image.Resampling.BILINEAR)) / 255 for v in values
    ]
    np.testing.assert_allclose(
        probs, softmax(first_and_last([r.transpose(2, 0, 1) for r in resized])), atol=1e-5
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no image", "image of id 'b' cannot be decoded: cannot identify image file"),
        (encode(COLOURS[0])[:-30], "image of id 'b' cannot be decoded"),
        (b"", "image of id 'b' cannot be decoded"),
        ("text", "value of id 'b' is of type str, where the bytes of an image are needed"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, value, message):
    model = load(pixels(tmp_path / "m.onnx"), '[input]\ndecode = "image"\n[output]\nlogits = true')
    with pytest.raises(ModelError, match=message):
        model(["a", "b"], [encode(COLOURS[0]), value])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [5_000, 9_999, 10_000])
def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    model = load(pixels(tmp_path / "m.onnx"), '[input]\ndecode = "image"\n[output]\nlogits = true')
    bomb = encode(np.zeros((100, 100, 3), np.uint8))
    if limit < 10_000:
        with pytest.raises(ModelError, match=r"(?s)image of id 'x' .*(decompression bomb)"):
            model(["x"], [bomb])
    else:
        model(["x"], [bomb])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([X[0], b"png"], 'value of id 2 is bytes, but the model takes numbers .*decode = "image"'),
        ([X[0], "text"], "value of id 2 is of type str, but the model takes numbers"),
        ([X[0], None], "value of id 2 is of type NoneType"),
        ([X[0], X[1][:3]], r"value of id 2 has shape \(3,\), that of id 1 \(4,\)"),
        (
            [X[0][:3], X[1][:3]],
            r"id 1 has the shape \(3,\) once prepared, .* takes \(4\)",
        ),
        ([X[0], [[1], [2, 3]]], "value of id 2 is not an array of numbers"),
    ],
)
def test_values_that_do_not_fit_are_named(tmp_path, values, message):
    with pytest.raises(ModelError, match=message):
        load(linear(tmp_path / "m.onnx", W))([1, 2], values)


def test_several_outputs_need_a_choice(tmp_path):
    nodes = [helper.make_node("Softmax", ["x"], ["y"]), helper.make_node("ArgMax", ["x"], ["k"], axis=1)]
    outputs = [info("k", TensorProto.INT64, ["n", 1]), info("y", TensorProto.FLOAT, ["n", 4])]
    path = save(tmp_path / "m.onnx", nodes, [info("x", TensorProto.FLOAT, ["n", 4])], outputs)
    with pytest.raises(ModelError, match=r"several outputs \('k', 'y'\); .* in m.toml: \[output\] name"):
        load(path)
    probs = load(path, '[output]\nname = "y"')(list(range(10)), list(X))
    np.testing.assert_allclose(probs, softmax(X), atol=1e-5)
    with pytest.raises(ModelError, match="the graph has no output 'z'; there are 'k', 'y'"):
        load(path, '[output]\nname = "z"')


def test_several_inputs_are_refused(tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    shapes = [info(name, TensorProto.FLOAT, ["n", 4]) for name in "aby"]
    path = save(tmp_path / "m.onnx", nodes, shapes[:2], shapes[2:])
    with pytest.raises(ModelError, match=r"takes several inputs \('a', 'b'\); use a Python callable"):
        load(path)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[input]\nname = "z"', "no input 'z'; there are 'x'"),
        ('[input]\ndtype = "float16"', r"dtype is 'float16', but the graph takes tensor\(float\)"),
        ('[input]\ndecode = "image"', r"needs an input of numbers with 4 axes, not tensor\(float\)"),
        ('[run]\nproviders = ["NoSuchProvider"]', "no execution provider 'NoSuchProvider' .*there are .*CPU"),
        ("[run]\nthread = 1", "unknown key 'thread' in run"),
    ],
)
def test_a_description_that_does_not_fit_the_graph(tmp_path, toml, message):
    with pytest.raises(ModelError, match=message):
        load(linear(tmp_path / "m.onnx", W), toml)


def test_images_have_one_or_three_channels(tmp_path):
    path = pixels(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="std needs 1 or 3 numbers"):
        load(path, '[input]\ndecode = "image"\nstd = [1, 1]')
    four = pixels(tmp_path / "four.onnx", ("n", 4, "h", "w"))
    with pytest.raises(ModelError, match="the input has 4 channels with layout NCHW"):
        load(four, '[input]\ndecode = "image"')
    integers = pixels(tmp_path / "integers.onnx", kind=TensorProto.UINT8)
    with pytest.raises(ModelError, match="mean needs a floating input"):
        load(integers, '[input]\ndecode = "image"\nmean = 0.5')


def test_options_win_over_the_description(tmp_path):
    path = linear(tmp_path / "m.onnx", W)
    toml = "[run]\nbatch_size = 8\nthreads = 1"
    assert load(path, toml).batch_size == 8
    model = load(path, toml, batch_size=2, threads=2, providers=["CPUExecutionProvider"], cost=1.5, unit="J")
    assert (model.batch_size, model.cost, model.unit) == (2, 1.5, "J")


def test_the_digest_covers_the_graph_and_its_description(tmp_path):
    path = linear(tmp_path / "m.onnx", W)
    assert load(path).digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    toml = "[run]\nbatch_size = 8\n"
    both = hashlib.sha256(path.read_bytes() + toml.encode()).hexdigest()
    assert load(path, toml).digest == f"sha256:{both}"


def test_weights_outside_the_file_belong_to_the_digest(tmp_path):
    path = linear(tmp_path / "m.onnx", W)
    content = onnx.load(path)
    digests = []
    for factor in (1, 2):
        content.graph.initializer[0].CopyFrom(
            numpy_helper.from_array((W * factor).astype(np.float32), content.graph.initializer[0].name)
        )
        onnx.save(content, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
        model = load(path)
        np.testing.assert_allclose(model(list(range(10)), list(X)), softmax(X @ W * factor), atol=1e-5)
        digests.append(model.digest)
        (tmp_path / "m.onnx.data").unlink()
        content = onnx.load_model_from_string(linear(tmp_path / "n.onnx", W).read_bytes())
    assert digests[0] != digests[1]


def test_what_is_no_onnx_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"m.onnx: not an ONNX file, or cut short"):
        load(tmp_path / "m.onnx")


DATA = Path(os.environ.get("SPARING_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "cifar100").is_dir(), reason="needs SPARING_DATA or ../shared/data")
def test_real_images_arrive_as_the_paper_prepares_them(tmp_path):
    """The input of a CIFAR network, against the formula applied to the pixels directly."""
    mean, std = [0.5070, 0.4865, 0.4409], [0.2673, 0.2564, 0.2761]
    toml = f'[input]\ndecode = "image"\nmean = {mean}\nstd = {std}\n[output]\nlogits = true'
    model = load(pixels(tmp_path / "m.onnx"), toml)
    path = DATA / "cifar100" / "test.parquet"
    samples = open_samples(path)
    assert len(samples) == 10_000
    at = np.arange(0, 10_000, 97)
    probs, _ = run(model, samples.ids.take(at).to_pylist(), samples.fetch(at))
    table = pq.read_table(path).take(at)
    arrays = [np.asarray(Image.open(io.BytesIO(b))) for b in table.column("image").to_pylist()]
    expected = [((a / 255 - mean) / std).transpose(2, 0, 1) for a in arrays]
    np.testing.assert_allclose(probs, softmax(first_and_last(expected)), atol=1e-5)
    assert samples.labels()[at].tolist() == table.column("label").to_pylist()


def test_a_value_whose_shape_the_graph_does_not_take_is_named(tmp_path):
    model = load_model(f"m={linear(tmp_path / 'm.onnx', np.ones((3, 2)))}")
    assert model(["a"], [np.ones(3)]).shape == (1, 2)
    with pytest.raises(ModelError, match=r"id 'a' has the shape \(4,\) once prepared, .* takes \(3\) per"):
        model(["a"], [np.ones(4)])
