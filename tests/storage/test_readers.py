import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from sparing.errors import CacheError, InputError
from sparing.storage.readers import parse_json, read_json, read_toml


class Layer(Struct, frozen=True):
    width: Annotated[int, Meta(ge=1)]
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.5


@dataclass(frozen=True)
class Origin:
    host: str
    port: int | None = None


class File(Struct, frozen=True):
    name: str
    mode: Literal["fast", "slow"] = "fast"
    layers: tuple[Layer, ...] = ()
    origin: Origin | None = None
    costs: dict[str, Annotated[float, Meta(ge=0)]] = {}
    mean: float | Annotated[tuple[float, ...], Meta(min_length=1)] | None = None
    size: Annotated[tuple[int, int], Meta(description="[height, width] in pixels")] | None = None
    words: list[str] | None = None
    pair: tuple[int, str] | None = None
    notes: Any = None
    flag: bool = False

    def __post_init__(self):
        if self.flag and self.mode == "fast":
            raise ValueError("flag needs mode 'slow'")


GOOD = """
name = "é"
mean = [1, 2.5]
size = [3, 4]
[[layers]]
width = 3
[[layers]]
width = 4
rate = 1
[origin]
host = "here"
[costs]
"Llama-2 7B" = 2
small = 0.5
[notes]
free = [nan, 1]
"""


def test_a_good_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    read = read_toml(path, File)
    assert read.layers == (Layer(3), Layer(4, 1.0))
    assert read.origin == Origin("here")
    assert read.costs == {"Llama-2 7B": 2.0, "small": 0.5}
    assert (read.name, read.mean, read.size) == ("é", (1.0, 2.5), (3, 4))
    assert read.notes["free"][1] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam = 1", "unknown key 'nam'; there are 'name', 'mode', 'layers', 'origin'"),
        ("mode = 'fast'", "name is missing"),
        ("name = 1", "name must be a text, got 1"),
        ("name = 'a'\nflag = 1", "flag must be true or false, got 1"),
        ("name = 'a'\nmode = 'slw'", "mode must be one of 'fast', 'slow', got 'slw'"),
        ("name = 'a'\nflag = true", "flag needs mode 'slow'"),
        ("name = 'a'\nmean = 'x'", "mean must be a number or a list of numbers with at least 1, got 'x'"),
        ("name = 'a'\nmean = []", "mean must be a number or a list of numbers"),
        ("name = 'a'\nmean = true", "mean must be a number or a list of numbers"),
        ("name = 'a'\nmean = nan", "mean must be a number .*, got nan"),
        ("name = 'a'\nmean = [1, inf]", r"mean\[1\] must be a number, got inf"),
        ("name = 'a'\nmean = [1, 'x']", r"mean\[1\] must be a number, got 'x'"),
        ("name = 'a'\nsize = [1]", r"size must be \[height, width\] in pixels, got \[1\]"),
        ("name = 'a'\npair = ['x', 'y']", r"pair must be a list of 2 .*, got \['x', 'y'\]"),
        ("name = 'a'\nwords = 'CPU'", "words must be a list of texts, got 'CPU'"),
        ("name = 'a'\nwords = ['a', 2]", r"words\[1\] must be a text, got 2"),
        ("name = 'a'\nlayers = 3", "layers must be a list of tables, got 3"),
        ("name = 'a'\n[[layers]]\nwidth = 1\n[[layers]]", r"layers\[1\].width is missing"),
        ("name = 'a'\n[[layers]]\nwidth = 0", r"layers\[0\].width must be a whole number from 1, got 0"),
        ("name = 'a'\n[[layers]]\nwidth = 1.0", r"layers\[0\].width must be a whole number"),
        ("name = 'a'\n[[layers]]\nwidth = 1\nrate = 2", "rate must be a number above 0 up to 1, got 2"),
        ("name = 'a'\n[[layers]]\nwdth = 1", r"unknown key 'wdth' in layers\[0\]; there are 'width', 'rate'"),
        ("name = 'a'\norigin = 'x'", "origin must be a table, got 'x'"),
        (
            "name = 'a'\n[origin]\nhost = 'a'\npot = 1",
            "unknown key 'pot' in origin; there are 'host', 'port'",
        ),
        ("name = 'a'\n[origin]\nport = 1", "origin.host is missing"),
        ("name = 'a'\n[costs]\n'a b' = -1", "costs.'a b' must be a number from 0, got -1"),
        ("name = 'a'\n[costs]\na = nan", "costs.a must be a number from 0, got nan"),
        ("name = 'a'\n[costs]\na = inf", "costs.a must be a number from 0, got inf"),
        ("name = ", "not valid TOML"),
        ("name = 1" + "0" * 5000, "not valid TOML"),
        ("x = " + "[" * 100_000, "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path, text, message):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_toml(path, File)
    assert str(raised.value).startswith(f"{path}: ")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "the whole must be a table, got"),
        ("[" * 100_000, "not valid JSON"),
        ('{"name": null}', "name must be a text, got None"),
        ('{"name": "a", "mean": NaN}', "mean must be a number .*, got nan"),
        ('{"name": "a", "mean": 1e999}', "mean must be a number .*, got inf"),
        ('{"name": "a", "\\ud800": 1}', r"unknown key '\\ud800'"),
        ('{"name": "a", "flag": "' + "x" * 10_000 + '"}', "flag must be true or false, got 'xxx"),
    ],
)
def test_json(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_json(path, File)
    str(raised.value).encode()
    assert len(str(raised.value)) < 500


def test_files_that_are_no_text_or_not_there(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    for read in (read_toml, read_json):
        with pytest.raises(InputError, match="not UTF-8 text"):
            read(tmp_path / "a", File)
        with pytest.raises(InputError, match="none: cannot be read: No such file"):
            read(tmp_path / "none", File)
        with pytest.raises(CacheError, match="cannot be read: Is a directory"):
            read(tmp_path, File, error=CacheError)


def test_versions(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"format": 2, "name": "a"}))
    assert read_json(path, File, newest=2) == read_json(path, File, newest=3) == File("a")
    with pytest.raises(InputError, match="unknown key 'format'"):
        read_json(path, File)
    with pytest.raises(
        CacheError, match=r"newer release of Sparing \(format 2, this release reads up to 1\)"
    ):
        read_json(path, File, newest=1, error=CacheError)
    for bad in ({}, {"format": True}, {"format": 0}, {"format": "1"}):
        with pytest.raises(InputError, match="here: format must be a whole number from 1 to 2, got"):
            parse_json(json.dumps({**bad, "name": "a"}), File, "here", newest=2)
    assert (
        parse_json(b'{"version": 1, "name": "a"}', File, "here", newest=1, version_key="version").name == "a"
    )
