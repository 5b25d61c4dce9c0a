"""Every verb of the command line, found through typer, is given bad arguments: no traceback, no surprise."""

import zlib

import pytest
import typer

from sparing.cli.main import app

BAD = [
    "",
    " ",
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "1e9999999rows",
    "9" * 30,
    "no/such/file",
    ".",
    "/dev/null",
    "a=b=c",
    "=",
    "name=",
    "%",
    "[/red]",
    "\x1b[31m\udcff",
    "é" * 300,
    "old.parquet",
    "models.py:raising",
]

# What makes each verb run; what is not here is given bad values for everything that it needs.
WORKING = {
    "cache import": "new.lance --from old.parquet --model old",
    "cache fill": "new.lance --model m=models.py:new --samples samples.parquet",
    "cache info": "c.lance",
    "cache history": "c.lance",
    "cache get": "c.lance s0001",
    "cache append": "c.lance --from old.parquet --model old",
    "cache delete": "c.lance s0001",
    "cache export": "c.lance --out out.parquet",
    "cache rollback": "c.lance --round 0",
    "cache compact": "c.lance",
    "cache convert": "c.lance --encoding int8",
    "cache discard": "c.lance",
    "fit": "c.lance --outputs n=old.parquet --epochs 1 --out ranker",
    "refresh": "c.lance --model m=models.py:new --samples samples.parquet --budget 10rows --dry-run",
    "evaluate": "--old old.parquet --new n=old.parquet --seeds 1 --scorers entropy",
    "simulate": "--round old.parquet --round old.parquet --seeds 1 --method entropy",
    "bounds": "states.csv",
}
SERVERS = {"route serve", "offload serve"}


def verbs(command=None, path=()):
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", None)
    if below is None:
        return {" ".join(path): command}
    return {name: found for key, one in below.items() for name, found in verbs(one, (*path, key)).items()}


VERBS = verbs()


def some(of, count):
    """Choose a few bad values, the same each time."""
    start = zlib.crc32(of.encode())
    return [BAD[(start + 8 * step) % len(BAD)] for step in range(count)]


def given(parameter, value):
    if parameter.param_type_name == "argument":
        return [value]
    return [parameter.opts[-1]] if getattr(parameter, "is_flag", False) else [parameter.opts[-1], value]


def check(result, arguments, codes):
    assert result.code in codes, (arguments, result)
    assert "Traceback" not in result.out + result.err, arguments
    assert "unexpected" not in result.err, (arguments, result.err)
    assert "\x1b" not in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_bad_values_for_all_that_is_needed(sparing, verb):
    for n in range(4):
        arguments = verb.split()
        for parameter in VERBS[verb].params:
            if parameter.required:
                arguments += given(parameter, some(f"{verb} {parameter.name}", 4)[n])
        check(sparing(*arguments), arguments, (1, 2))
    if len(VERBS[verb].params) > 1:
        check(sparing(*verb.split()), verb, (1, 2))
    check(sparing(*verb.split(), "--no-such-option"), verb, (2,))


@pytest.mark.parametrize("verb", WORKING)
def test_one_bad_value_in_a_command_that_works(sparing, files, verb):
    (files / "states.csv").write_text("name,cost,accuracy\na,1,0.7\nb,2,0.8\n")
    made = sparing("cache", "import", "c.lance", "--from", "old.parquet", "--model", "old")
    assert made.code == 0, made
    for parameter in VERBS[verb].params:
        if parameter.param_type_name == "argument" or parameter.name == "help":
            continue
        for value in some(f"{verb} {parameter.name}", 3):
            arguments = [*verb.split(), *WORKING[verb].split(), *given(parameter, value)]
            check(sparing(*arguments), arguments, (0, 1, 2))


def test_no_verb_is_left_out():
    assert set(WORKING) <= set(VERBS)
    assert set(VERBS) >= SERVERS
    assert len(VERBS) >= 25
