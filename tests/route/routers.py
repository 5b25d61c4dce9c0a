"""Small routers in folders: the shade of an image, or the first number, decides which expert answers."""

import io
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from sparing.models import load_model
from sparing.route.experts import Expert, Latency
from sparing.route.router import Point, RouterDescription, write_router

CLASSES = ("night", "day")
LATENCY = Latency(batch_size=1, median=0.001, p95=0.002, calls=10)
BATCHED = Latency(batch_size=32, median=0.008, p95=0.010, calls=10)
IMAGES = '[input]\ndecode = "image"\n'

# From the mean red, green and blue (0 to 1) to the scores of two experts: "dark" up to a half, "bright" on.
ROUTER = (np.array([[-10, 10], [0, 0], [0, 0]]), np.array([5, -5]))
# From the same to the logits of two classes, differently by expert.
EXPERTS = {
    "dark": (np.array([[1, 2], [0, 0], [0, 0]]), np.array([0.5, 0])),
    "bright": (np.array([[0, 3], [0, 0], [1, 0]]), np.array([0, 1])),
}


def save_images_model(path, weights, bias, *, softmax):
    """A graph from images of any size to the mean of their channels, times weights, plus a bias."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["z"]),
        helper.make_node("Add", ["z", "b"], ["logits"]),
        helper.make_node("Softmax" if softmax else "Identity", ["logits"], ["y"]),
    ]
    _save(path, nodes, ["n", 3, "h", "w"], weights, bias)
    path.with_suffix(".toml").write_text(IMAGES + "resize = [8, 8]\n")


def save_numbers_model(path, weights, bias, *, softmax):
    """The same for vectors of numbers."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Add", ["z", "b"], ["logits"]),
        helper.make_node("Softmax" if softmax else "Identity", ["logits"], ["y"]),
    ]
    _save(path, nodes, ["n", weights.shape[0]], weights, bias)
    path.with_suffix(".toml").touch()


def _save(path, nodes, shape, weights, bias):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "w"),
            numpy_helper.from_array(bias.astype(np.float32), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def expert(name, target, digest=None):
    """What a profile would say of a model."""
    if digest is None:
        digest = load_model(f"{name}={target}").digest
    return Expert(name, str(target), digest, LATENCY, BATCHED)


def make_router(folder: Path, *, save=save_images_model, experts=None, classes=CLASSES, points=()) -> Path:
    """Write a router trained for one trade-off, and its experts beside it unless they are given."""
    path = folder / "router"
    path.mkdir()
    save(path / "router.onnx", *ROUTER, softmax=False)
    if experts is None:
        for name, model in EXPERTS.items():
            save(folder / f"{name}.onnx", *model, softmax=True)
        experts = [expert(name, folder / f"{name}.onnx") for name in EXPERTS]
    objective = "benefit" if points else "trade-off"
    description = RouterDescription(
        objective, tuple(experts), LATENCY, BATCHED, classes, training={}, points=tuple(points)
    )
    write_router(path, description)
    return path


POINTS = (
    Point("5ms", (0.001, 0.009), 0.0, expected_cost=0.005, expected_accuracy=0.9, unit="seconds"),
    Point("1ms", (0.001, 0.009), 1e6, expected_cost=0.001, expected_accuracy=0.8, unit="seconds"),
)


def image(shade, size=(20, 30), kind="PNG"):
    """One encoded image, each channel its own shade of 0 to 255."""
    pixels = np.full((*size, 3), shade, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def expected(shade):
    """Work out the expert and the distribution of an evenly coloured image by hand."""
    means = np.broadcast_to(shade, 3) / 255
    name = "dark" if means[0] <= 0.5 else "bright"
    weights, bias = EXPERTS[name]
    powers = np.exp(means @ weights + bias)
    return name, powers / powers.sum()
