import subprocess
import sys

import numpy as np
import pytest

from sparing.numerics.arrays import as_array


def test_numpy_and_lists_come_back_as_they_are():
    array = np.eye(3, dtype=np.float32)
    assert as_array(array) is array
    np.testing.assert_array_equal(as_array([[1, 2], [3, 4]]), [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="inhomogeneous"):
        as_array([[1, 2], [3]])


def test_tensors_are_detached():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([[0.25, 0.75]], requires_grad=True)
    expected = [[0.25, 0.75]]
    np.testing.assert_array_equal(as_array(tensor * 1), expected)
    np.testing.assert_array_equal(as_array([tensor[0], tensor[0]]), [*expected, *expected])
    short = as_array(tensor.to(torch.bfloat16))
    assert short.dtype == np.float32
    np.testing.assert_array_equal(short, expected)  # both are exact in bfloat16


def test_bfloat16_of_other_libraries_becomes_float32():
    types = pytest.importorskip("ml_dtypes")
    array = as_array(np.array([0.25, 0.75], dtype=types.bfloat16))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [0.25, 0.75])


def test_torch_is_not_imported_for_it():
    code = "import sys; from sparing.numerics.arrays import as_array; as_array([1.0]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "torch" not in done.stdout.split()
