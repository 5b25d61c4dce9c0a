"""Route: a learned gater picks one frozen expert per fresh input, at the latency that you can afford.

`train`, `prepare` and `Settings` need torch, and are loaded when they are first used. What touches HTTP
(`service`) is imported from its own module, because it needs the extra `serve`.
"""

from typing import TYPE_CHECKING, Any

from sparing.route.calibrate import Calibrated, calibrate
from sparing.route.choosing import choose, solve_multiplier
from sparing.route.corrupt import CLEAN, Corruption, blur, noise, variants
from sparing.route.dispatch import Dispatcher, Experts
from sparing.route.evaluate import Report, evaluate
from sparing.route.experts import Expert, Latency
from sparing.route.gater import Calibration, Description, Gater, Point, open_gater
from sparing.route.latency import measure
from sparing.route.profile import Profile, open_profile, profile
from sparing.route.run import Account, run

if TYPE_CHECKING:
    from sparing.route.fitting import Settings
    from sparing.route.training import prepare, train

__all__ = [
    "CLEAN",
    "Account",
    "Calibrated",
    "Calibration",
    "Corruption",
    "Description",
    "Dispatcher",
    "Expert",
    "Experts",
    "Gater",
    "Latency",
    "Point",
    "Profile",
    "Report",
    "Settings",
    "blur",
    "calibrate",
    "choose",
    "evaluate",
    "measure",
    "noise",
    "open_gater",
    "open_profile",
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
