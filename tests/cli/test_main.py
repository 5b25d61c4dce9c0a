import re
import shlex

import pytest

from sparing.cli import main

COMMANDS = [
    ["cache", name]
    for name in (
        "import",
        "fill",
        "info",
        "history",
        "get",
        "append",
        "delete",
        "export",
        "rollback",
        "compact",
        "discard",
    )
]
COMMANDS += [["route", name] for name in ("profile", "train", "calibrate", "evaluate", "run", "serve")]
COMMANDS += [["fit"], ["refresh"], ["evaluate"], ["simulate"]]


def test_version_and_help(sparing):
    assert sparing("--version").out.startswith("sparing 0.")
    assert "refresh" in sparing("--help").out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_ends_with_an_example(sparing, command):
    result = sparing(*command, "--help")
    assert result.code == 0
    text = " ".join(result.out.split())
    example = re.search(r"Example: (sparing .*)$", text)
    assert example, text[-200:]
    assert shlex.split(example.group(1))[1 : 1 + len(command)] == command


def test_wrong_usage_exits_with_2(sparing):
    assert sparing("nonsense").code == 2
    assert sparing("refresh", "c.lance").code == 2
    assert sparing("fit", "c.lance", "--rows", "many").code == 2


def test_an_interrupt_exits_with_130(sparing, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupt)
    result = sparing("cache", "info", "x")
    assert result.code == 130
