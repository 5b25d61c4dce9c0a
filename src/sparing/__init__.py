"""Sparing: spend inference compute only where it pays.

Each capability is a room of its own (`sparing.refresh`, `sparing.bounds`, `sparing.evaluate`,
`sparing.offload`, `sparing.route`); what they share is here. Names are loaded when they are first used, so
that `import sparing` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparing.version import __version__ as __version__

if TYPE_CHECKING:
    from sparing import bounds as bounds
    from sparing import evaluate as evaluate
    from sparing import offload as offload
    from sparing import refresh as refresh
    from sparing import route as route
    from sparing.budget import Budget
    from sparing.cache import Cache, export, import_outputs
    from sparing.data.samples import open_samples
    from sparing.data.tables import read_outputs, write_outputs
    from sparing.models import Model, from_callable, from_torch, load_model

_HOMES = {
    "Budget": "sparing.budget",
    "Cache": "sparing.cache",
    "Model": "sparing.models",
    "export": "sparing.cache",
    "from_callable": "sparing.models",
    "from_torch": "sparing.models",
    "import_outputs": "sparing.cache",
    "load_model": "sparing.models",
    "open_samples": "sparing.data.samples",
    "read_outputs": "sparing.data.tables",
    "write_outputs": "sparing.data.tables",
}

__all__ = [
    "Budget",
    "Cache",
    "Model",
    "export",
    "from_callable",
    "from_torch",
    "import_outputs",
    "load_model",
    "open_samples",
    "read_outputs",
    "write_outputs",
]


_ROOMS = ("bounds", "evaluate", "offload", "refresh", "route")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"sparing.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'sparing' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
