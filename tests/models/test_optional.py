import subprocess
import sys

import pytest

from sparing.errors import MissingExtraError
from sparing.models import from_torch


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'pip install "sparing\[torch\]"'):
        from_torch(None, list, name="net")


def test_importing_models_loads_no_framework():
    code = (
        "import sys, sparing.models, sparing.data.samples, sparing.data.tables; "
        "print([m for m in ('torch', 'onnxruntime', 'lance', 'PIL', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
