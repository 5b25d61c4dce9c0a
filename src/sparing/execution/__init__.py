"""Execution: where the chunks of a job are computed. One class per engine; `ENGINES` lists them.

To add an engine, write a class with the methods of `Engine` and add it to `ENGINES`.
"""

from collections.abc import Mapping

from sparing.execution.engine import Engine, Local

__all__ = ["ENGINES", "Engine", "Local"]

ENGINES: Mapping[str, type[Engine]] = {"local": Local}
"""Every engine, by name."""
