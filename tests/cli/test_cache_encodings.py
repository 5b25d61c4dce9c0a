import json

import pyarrow as pa
import pytest
from tests.conftest import distributions
from typer.testing import CliRunner

from sparing.cache import Cache
from sparing.cache.encodings import DEFAULT
from sparing.cli.main import app
from sparing.data.tables import write_outputs
from sparing.errors import InputError


def sparing(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "old.parquet"
    write_outputs(path, pa.array([f"s{i}" for i in range(50)]), distributions(50, 20), None)
    return path


def test_the_encoding_is_chosen_at_import_and_converted_later(tmp_path, table):
    cache = tmp_path / "c.lance"
    made = sparing("cache", "import", cache, "--from", table, "--model", "m", "--encoding", "int8", "--json")
    assert (made["encoding"], made["row_bytes"]["nominal"]) == ("int8", 20)
    done = sparing("cache", "convert", cache, "--encoding", "top3-int4", "--json")
    assert done["row_bytes"]["nominal"] == 4.5
    assert done["row_bytes"]["row"] < done["row_bytes_before"]["row"]
    info = sparing("cache", "info", cache, "--json")
    assert (info["encoding"], info["row_bytes"]) == ("top3-int4", done["row_bytes"])
    assert [entry["op"] for entry in sparing("cache", "history", cache, "--json")["history"]] == [
        "import",
        "convert",
    ]


def test_the_default_is_that_of_the_library(tmp_path, table):
    made = sparing("cache", "import", tmp_path / "c.lance", "--from", table, "--model", "m", "--json")
    assert made["encoding"] == DEFAULT


def test_an_unknown_encoding_leaves_nothing_behind(tmp_path, table):
    cache = tmp_path / "c.lance"
    with pytest.raises(InputError, match="there is no encoding 'zip'"):
        sparing("cache", "import", cache, "--from", table, "--model", "m", "--encoding", "zip")
    assert not cache.exists()
    sparing("cache", "import", cache, "--from", table, "--model", "m", "--json")
    with pytest.raises(InputError, match="encoded as float16 already"):
        sparing("cache", "convert", cache, "--encoding", "float16")
    assert Cache.open(cache).version == 1
