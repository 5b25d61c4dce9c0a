import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

IMAGES = '[input]\ndecode = "image"\nresize = [4, 4]\n[output]\nlogits = true\n'


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def image(seed, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def linear(path, weights, toml=IMAGES):
    """Images of 4 x 4 pixels, flattened, times weights (48, C): logits."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    path.with_suffix(".toml").write_text(toml)
    return str(path)


@pytest.fixture
def experts(tmp_path):
    """Two ONNX experts for images, with 3 classes; targets by name."""
    rng = np.random.default_rng(0)
    return {
        name: linear(tmp_path / f"{name}.onnx", 5 * rng.normal(size=(48, 3))) for name in ("small", "large")
    }


@pytest.fixture
def images():
    """Ids and encoded images."""
    return {f"p{i}": png(image(i)) for i in range(20)}
