"""Pages that people look at: self-contained HTML files."""

from sparing.pages.page import write_page

__all__ = ["write_page"]
