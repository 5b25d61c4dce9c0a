import json
import os
import subprocess
import sys

import pytest

from sparing.cli import main
from sparing.cli.failures import explain
from sparing.errors import CacheError, SparingError


class Panic(BaseException):
    """As Rust libraries raise: no Exception."""


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (CacheError("c.lance is damaged"), "CacheError", 1),
        (KeyboardInterrupt(), "Interrupted", 130),
        (FileNotFoundError(2, "No such file or directory", "x"), "FileNotFoundError", 1),
        (MemoryError(), "MemoryError", 1),
        (Panic("index out of\n bounds"), "Panic", 1),
        (ValueError(), "ValueError", 1),
        (OSError("LanceError(IO): torn\nbacktrace"), "OSError", 1),
    ],
)
def test_every_error_has_one_line(error, kind, code):
    failure = explain(error)
    assert (failure.type, failure.code) == (kind, code)
    assert failure.message
    assert "\n" not in failure.message


@pytest.mark.parametrize("error", [ValueError("no such layer"), Panic("no such layer"), MemoryError()])
def test_an_unexpected_error_is_a_line_and_with_json_an_object(sparing, monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.delenv("SPARING_DEBUG", raising=False)
    monkeypatch.setattr(main, "app", fail)
    plain = sparing("cache", "info", "x")
    assert plain.code == 1
    assert plain.out == ""
    assert plain.err.startswith("error: ")
    result = sparing("cache", "info", "x", "--json")
    assert result.code == 1
    assert set(result.json["error"]) == {"type", "message", "hint"}
    assert result.json["error"]["type"] == type(error).__name__


def test_debug_shows_where_it_happened(monkeypatch, capsys):
    def fail(**_):
        raise ValueError("no such layer")

    monkeypatch.setenv("SPARING_DEBUG", "1")
    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setattr(sys, "argv", ["sparing", "cache", "info", "x"])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 1
    assert "in fail" in capsys.readouterr().err


def test_errors_and_wrong_usage_are_objects_with_json(sparing):
    result = sparing("cache", "info", "missing.lance", "--json")
    assert result.code == 1
    assert result.json["error"]["type"] == "CacheError"
    assert "missing.lance" in result.json["error"]["message"]
    result = sparing("cache", "info", "--wrong", "--json")
    assert result.code == 2
    assert result.json["error"]["type"] == "UsageError"
    assert sparing("cache", "--json").code == 2
    assert sparing("cache", "info", "--json", "--help").out.strip()


def test_rows_that_were_found_and_the_error_are_one_object(sparing, files):
    sparing("cache", "import", "c.lance", "--from", "old.parquet", "--model", "old")
    result = sparing("cache", "get", "c.lance", "s0001", "nobody", "--json")
    assert result.code == 1
    assert [row["id"] for row in result.json["rows"]] == ["s0001"]
    assert "nobody" in result.json["error"]["message"]


PRINTING = """
import os, subprocess, sys
import numpy as np

print("loading")

def new(values):
    print("from python")
    os.write(1, b"from a library\\n")
    subprocess.run([sys.executable, "-c", "print('from a process')"], check=True)
    return np.full((len(values), 5), 0.2)
"""


def test_what_a_model_prints_stays_out_of_the_object(files):
    (files / "printing.py").write_text(PRINTING)
    for command in (
        "cache import c.lance --from old.parquet --model old",
        "refresh c.lance --model=n=printing.py:new --samples=samples.parquet --budget=20rows",
    ):
        result = subprocess.run(
            [sys.executable, "-c", "from sparing.cli.main import main; main()", *command.split(), "--json"],
            cwd=files,
            capture_output=True,
            text=True,
            env={**os.environ},
            check=True,
        )
    assert json.loads(result.stdout)["refreshed"] == 20
    for source in ("loading", "from python", "from a library", "from a process"):
        assert source in result.stderr


def test_a_sparing_error_is_not_called_unexpected():
    assert explain(SparingError("x")).hint is None
