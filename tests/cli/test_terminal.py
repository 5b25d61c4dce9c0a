import pyarrow as pa
import pytest
from tests.refresh.conftest import outputs_of

from sparing.cli.terminal import cell, printable
from sparing.data.tables import write_outputs


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb", "a\\rb"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
        ("\udc80", "\\udc80"),
        ("Zürich 猫 👩‍🔬\tand\nmore", "Zürich 猫 👩‍🔬\tand\nmore"),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert printable(text) == shown


def test_a_cell_stays_on_its_line():
    assert cell("a\nb\tc") == "a\\nb\\tc"


def test_ids_and_class_names_do_not_steer_the_terminal(sparing, tmp_path):
    ids = ["\x1b]0;title\x07", "plain\nforged: class 0"]
    write_outputs(tmp_path / "o.parquet", pa.array(ids), outputs_of("old", range(2)))
    (tmp_path / "names").write_text("\x1b[31mred\na\nb\nc\nd\n")
    made = sparing(
        "cache", "import", "c.lance", "--from", "o.parquet", "--model", "m\x1b[5m", "--classes", "names"
    )
    result = sparing("cache", "get", "c.lance", *ids)
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 2
    missing = sparing("cache", "get", "c.lance", "\x1b[31mnobody")
    info = sparing("cache", "info", "c.lance")
    for text in (made.out, made.err, result.out, missing.out, missing.err, info.out, info.err):
        assert "\x1b" not in text
