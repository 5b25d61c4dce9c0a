"""Self-contained HTML pages: a title, paragraphs and figures in one file that needs no network."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from sparing.storage.files import write_text

_STYLE = (
    "body{font-family:system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;line-height:1.5}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
)


def write_page(path: str | Path, title: str, parts: Sequence[Any]) -> None:
    """Write a page that opens in any browser, with plotly's script inside.

    Args:
        path: the file to write.
        title: plain text, shown as the heading.
        parts: HTML strings (escape what comes from outside) and plotly figures, in order.

    Raises:
        StorageError: the file could not be written.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    script: bool = True
    for part in parts:
        if isinstance(part, str):
            body.append(part)
        else:
            body.append(part.to_html(full_html=False, include_plotlyjs=script))
            script = False
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    write_text(path, page)
