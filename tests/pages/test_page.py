import plotly.graph_objects as go
import pytest

from sparing.errors import StorageError
from sparing.pages import write_page


def test_a_page_holds_everything_and_the_script_once(tmp_path):
    figures = [go.Figure(go.Scatter(x=[1], y=[2], name=name)) for name in ("first-trace", "second-trace")]
    path = tmp_path / "page.html"
    write_page(path, "A <b>title</b>", ["<p>text</p>", *figures])
    page = path.read_text(encoding="utf-8")
    assert "A &lt;b&gt;title&lt;/b&gt;" in page
    assert "<p>text</p>" in page
    assert "first-trace" in page
    assert "second-trace" in page
    assert "<script src=" not in page
    assert 4_000_000 < len(page) < 8_000_000


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(StorageError, match="could not be written"):
        write_page(tmp_path / "none" / "page.html", "t", [])
