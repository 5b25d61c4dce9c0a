"""`policy.toml`: what `calibrate` found, for `send` and `evaluate` to read."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from msgspec import Meta, Struct

from sparing.errors import InputError
from sparing.offload.calibration import Policy
from sparing.offload.edge import Choice
from sparing.offload.gate import Gate, Measure
from sparing.offload.models import Geometry
from sparing.offload.schemes import Scheme
from sparing.storage.checksums import sealed
from sparing.storage.files import write_text
from sparing.storage.readers import read_toml

_VERSION = 1
_HEAD = "# Written by `sparing offload calibrate`: what to send at each budget of bytes.\n"

_Bytes = Annotated[int, Meta(ge=1)]


class _Geometry(Struct, frozen=True):
    height: int
    width: int
    patch: int


class _Gate(Struct, frozen=True):
    measure: Measure = "min-entropy"
    threshold: float = 1.0
    share: float | None = None


class _Choice(Struct, frozen=True):
    budget: _Bytes
    scheme: str | None = None
    fill: _Bytes | None = None
    edge_weight: Annotated[float, Meta(ge=0, le=100)] = 0.0
    accuracy_offloaded: float | None = None
    mean_bytes: float | None = None

    def __post_init__(self) -> None:
        if self.fill is not None and self.fill > self.budget:
            raise ValueError(f"fill is {self.fill}, above the budget {self.budget}")


class _Policy(Struct, frozen=True):
    geometry: _Geometry
    gate: _Gate
    choice: list[_Choice]

    def __post_init__(self) -> None:
        budgets = [choice.budget for choice in self.choice]
        for budget in budgets:
            if budgets.count(budget) > 1:
                raise ValueError(f"the budget {budget} has two choices")


def write_policy(path: str | Path, policy: Policy) -> None:
    """Write a policy as TOML, whole or not at all.

    Raises:
        StorageError: the file could not be written; what was there before still is.
    """
    entries = []
    for budget, choice in sorted(policy.choices.items()):
        entry: dict[str, Any] = {"budget": budget}
        if choice is not None:
            entry |= {"scheme": str(choice.scheme), "fill": choice.fill, "edge_weight": choice.edge_weight}
        found = policy.scores.get(budget, {})
        entry |= {key: round(found[key], 4) for key in ("accuracy_offloaded", "mean_bytes") if key in found}
        entries.append(entry)
    document = {
        "version": _VERSION,
        "geometry": dataclasses.asdict(policy.geometry),
        "gate": {key: value for key, value in dataclasses.asdict(policy.gate).items() if value is not None},
        "choice": entries,
    }
    write_text(path, _HEAD + tomli_w.dumps(sealed(document)))


def read_policy(path: str | Path) -> Policy:
    """Read a policy, written by `write_policy` or by hand.

    Raises:
        InputError: no such file, not TOML, or an entry is missing, unknown or out of range; it is named.
    """
    read = read_toml(path, _Policy, newest=_VERSION, version_key="version")
    try:
        return Policy(
            {entry.budget: _choice(entry) for entry in read.choice},
            Geometry(read.geometry.height, read.geometry.width, read.geometry.patch),
            Gate(read.gate.measure, read.gate.threshold, read.gate.share),
            {entry.budget: _scores(entry) for entry in read.choice},
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _choice(entry: _Choice) -> Choice | None:
    if entry.scheme is None:
        return None
    return Choice(Scheme.parse(entry.scheme), entry.fill or entry.budget, entry.edge_weight)


def _scores(entry: _Choice) -> dict[str, Any]:
    found = {"accuracy_offloaded": entry.accuracy_offloaded, "mean_bytes": entry.mean_bytes}
    return {key: value for key, value in found.items() if value is not None}
