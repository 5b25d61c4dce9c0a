import json
import sys
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.refresh.conftest import outputs_of

from sparing.cli.main import main
from sparing.data.tables import write_outputs

MODEL = """
import sys
import numpy as np

def new(values):
    rows = [np.random.default_rng([sum(b"new"), int(v)]).dirichlet(np.full(5, 0.4)) for v in values]
    return np.array(rows)

def raising(values):
    raise ValueError("no such layer")

def interrupted(values):
    raise KeyboardInterrupt
"""


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def sparing(monkeypatch, capsys, tmp_path):
    """Run a command as the shell would, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparing", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def files(tmp_path):
    """What a team has: outputs of the old model, samples with labels, and the new model as a file."""
    ids = [f"s{i:04d}" for i in range(300)]
    labels = np.random.default_rng(0).integers(0, 5, 300)
    write_outputs(tmp_path / "old.parquet", pa.array(ids), outputs_of("old", range(300)), labels)
    pq.write_table(pa.table({"id": ids, "value": range(300), "label": labels}), tmp_path / "samples.parquet")
    (tmp_path / "models.py").write_text(MODEL)
    return tmp_path
