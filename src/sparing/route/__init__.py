"""Route: a learned router picks one frozen expert per fresh input, at the latency that you can afford.

`train`, `prepare` and `Settings` need torch, and are loaded when they are first used. What touches HTTP
(`service`) is imported from its own module, because it needs the extra `serve`.
"""

from typing import TYPE_CHECKING, Any

from sparing.images import CLEAN, Corruption, blur, noise, variants
from sparing.route.calibration import Calibrated, calibrate
from sparing.route.choosing import choose, solve_multiplier
from sparing.route.dispatch import Dispatcher, Experts
from sparing.route.evaluation import RouteReport, evaluate
from sparing.route.experts import Expert, Latency
from sparing.route.latency import measure
from sparing.route.profiling import Profile, open_profile, profile
from sparing.route.router import Calibration, Point, Router, RouterDescription, open_router
from sparing.route.running import RouteAccount, run

if TYPE_CHECKING:
    from sparing.route.fitting import Settings
    from sparing.route.training import prepare, train

__all__ = [
    "CLEAN",
    "Calibrated",
    "Calibration",
    "Corruption",
    "Dispatcher",
    "Expert",
    "Experts",
    "Latency",
    "Point",
    "Profile",
    "RouteAccount",
    "RouteReport",
    "Router",
    "RouterDescription",
    "Settings",
    "blur",
    "calibrate",
    "choose",
    "evaluate",
    "measure",
    "noise",
    "open_profile",
    "open_router",
    "prepare",
    "profile",
    "run",
    "solve_multiplier",
    "train",
    "variants",
]


def __getattr__(name: str) -> Any:
    if name not in ("Settings", "prepare", "train"):
        raise AttributeError(f"module 'sparing.route' has no attribute {name!r}")
    from sparing.route import training

    return getattr(training, name)
