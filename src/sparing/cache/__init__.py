"""The prediction cache: rows, rounds and their record, on disk."""

from sparing.cache.checking import Check, check, repair
from sparing.cache.exporting import export
from sparing.cache.importing import import_outputs
from sparing.cache.memory import MemoryStore, Store
from sparing.cache.metadata import Metadata, ModelInfo
from sparing.cache.rows import Rows
from sparing.cache.store import Cache

__all__ = [
    "Cache",
    "Check",
    "MemoryStore",
    "Metadata",
    "ModelInfo",
    "Rows",
    "Store",
    "check",
    "export",
    "import_outputs",
    "repair",
]
