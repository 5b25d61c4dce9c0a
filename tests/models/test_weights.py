import numpy as np
import pytest

from sparing.errors import InputError
from sparing.models.onnx import load_onnx
from sparing.models.weights import weight_files

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.external_data_helper import convert_model_to_external_data, set_external_data  # noqa: E402

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def graph(tensors, nodes):
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
            [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 3])],
            tensors,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


def softmax_model():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("Softmax", ["s"], ["p"])]
    return graph([numpy_helper.from_array(W, "w")], nodes)


def saved(folder, location):
    model = softmax_model()
    convert_model_to_external_data(model, location=location, size_threshold=0, convert_attribute=True)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("location", ["m.onnx.data", "weights.bin", "deep/w.bin"])
def test_weights_beside_the_file_are_in_the_digest(tmp_path, location):
    (tmp_path / "deep").mkdir()
    path = saved(tmp_path, location)
    assert weight_files(path) == [tmp_path / location]
    before = load_onnx(path, name="m")
    expected = np.exp(W[0]) / np.exp(W[0]).sum()
    np.testing.assert_allclose(before(["a"], [np.array([1, 0], np.float32)])[0], expected, rtol=1e-5)
    (tmp_path / location).write_bytes(W[:, ::-1].tobytes())
    after = load_onnx(path, name="m")
    assert before.digest != after.digest


def test_a_file_that_holds_its_weights_names_none(tmp_path):
    onnx.save(softmax_model(), tmp_path / "m.onnx")
    assert weight_files(tmp_path / "m.onnx") == []


def test_weights_inside_an_attribute_or_a_branch_are_found(tmp_path):
    tensor = numpy_helper.from_array(W, "inner")
    set_external_data(tensor, location="inner.bin")
    tensor.ClearField("raw_data")
    branch = helper.make_graph([helper.make_node("Constant", [], ["p"], value=tensor)], "b", [], [])
    model = graph([], [helper.make_node("If", ["x"], ["p"], then_branch=branch, else_branch=branch)])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "inner.bin").write_bytes(W.tobytes())
    assert weight_files(tmp_path / "m.onnx") == [tmp_path / "inner.bin"]


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "a\\b.bin", "c:w.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    tensor = numpy_helper.from_array(W, "w")
    set_external_data(tensor, location=location)
    tensor.ClearField("raw_data")
    (tmp_path / "outside.bin").write_bytes(W.tobytes())
    folder = tmp_path / "in"
    folder.mkdir()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"])]
    (folder / "m.onnx").write_bytes(graph([tensor], nodes).SerializeToString())
    with pytest.raises(InputError, match="outside its folder: put the weights beside the model"):
        load_onnx(folder / "m.onnx", name="m")


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = saved(folder, "w.bin")
    (folder / "w.bin").rename(tmp_path / "w.bin")
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(InputError, match="a link out of its folder"):
        weight_files(path)


def test_missing_weights_are_named(tmp_path):
    path = saved(tmp_path, "w.bin")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match=r"weights from 'w\.bin', but there is no such file"):
        load_onnx(path, name="m")


@pytest.mark.parametrize("cut", [3, 40, -5])
def test_a_file_cut_short_is_one_error(tmp_path, cut):
    onnx.save(softmax_model(), tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:cut])
    with pytest.raises(InputError):
        load_onnx(tmp_path / "m.onnx", name="m")
