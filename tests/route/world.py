"""A small world to route in: samples with a known difficulty, two experts, and a router that sees it."""

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from sparing.data.samples import open_samples
from sparing.images import CLEAN, SEVERITIES
from sparing.models.description import Description as ModelDescription
from sparing.models.onnx import OnnxFunction
from sparing.route.experts import Expert, Latency
from sparing.route.router import Router, RouterDescription, write_router

CLASSES = 3
MS = 1e-3
WEIGHTS = np.array([[5.0, 3.0], [-10.0, -1.0]], np.float32)
"""From (1, difficulty) to the logits of small and large being right; exactly so."""


def latency(ms, p95=None, batch_size=1):
    return Latency(batch_size, ms * MS, (p95 or 1.2 * ms) * MS, 50, (ms * MS,) * 50)


def expert(name, ms, **stated):
    return Expert(
        name, f"{name}.onnx", f"sha256:{name}", latency(ms), latency(8 * ms, batch_size=32), **stated
    )


EXPERTS = (expert("small", 2.0, cost=0.1, unit="dollars"), expert("large", 8.0, cost=0.9, unit="dollars"))


def difficulty(sample_id):
    return float(np.random.default_rng(sum(sample_id.encode()) * 1000 + int(sample_id[1:])).random())


def chances(x):
    """Chance that small and large are right, at difficulties x of shape (m,)."""
    return 1 / (1 + np.exp(-(np.stack([np.ones_like(x), x], axis=1) @ WEIGHTS)))


class FakeProfile:
    """What `sparing.route.profiling.Profile` gives, without a model: class 0 when right, else class 1."""

    def __init__(self, experts=EXPERTS, decoding=None):
        self.experts, self.decoding, self.asked = experts, decoding, []

    def outputs(self, samples, variant=CLEAN, *, progress=None):  # noqa: ARG002
        self.asked.append(variant.name)
        ids = samples.ids.to_pylist()
        x = np.array([difficulty(i) for i in ids]) + SEVERITIES.index(variant.severity) / 4
        draws = np.array([np.random.default_rng([7, int(i[1:])]).random(2) for i in ids])
        right = draws < chances(x)
        sure = np.clip(0.4 + 0.5 * chances(x), 0.4, 0.95)
        probs = np.empty((len(ids), 2, CLASSES), np.float32)
        for e in range(2):
            probs[:, e] = ((1 - sure[:, e]) / 2)[:, None]
            probs[np.arange(len(ids)), e, np.where(right[:, e], 0, 1)] = sure[:, e]
        return np.log(probs)


def samples(m=400, start=0, labelled=True):
    ids = [f"s{start + i}" for i in range(m)]
    values = [[1.0, difficulty(i)] for i in ids]
    columns = {"id": ids, "value": pa.array(values, pa.list_(pa.float32()))}
    if labelled:
        columns["label"] = pa.array(np.zeros(m, np.int64))
    return open_samples(pa.table(columns))


def description(objective="benefit", experts=EXPERTS, **changes):
    return RouterDescription(
        objective, experts, latency(0.5), latency(1.6, batch_size=32), None, {"seed": 0}, **changes
    )


def make_router(path, objective="benefit", function=None, **changes):
    """Make a router that knows the difficulty; its logits are twice too large: calibration matters."""
    path.mkdir(exist_ok=True)
    described = description(objective, **changes)
    write_router(path, described)

    def score(values):
        return 2 * (np.stack(values).astype(np.float32) @ WEIGHTS)

    return Router(
        path, described, OnnxFunction(lambda _, values: (function or score)(values), 64, ModelDescription())
    )


def save_router(path, objective="benefit", **changes):
    """Write the same router as a folder that `open_router` opens."""
    make_router(path, objective, **changes)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "router",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(2 * WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path / "router.onnx")
    (path / "router.toml").touch()
    return path
