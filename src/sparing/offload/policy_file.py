"""`policy.toml`: what `calibrate` found, for `send` and `evaluate` to read."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from sparing.errors import InputError
from sparing.offload.calibration import Policy
from sparing.offload.edge import Choice
from sparing.offload.gate import Gate
from sparing.offload.models import Geometry
from sparing.offload.schemes import Scheme

_VERSION = 1


def write_policy(path: str | Path, policy: Policy) -> None:
    """Write a policy as TOML.

    Raises:
        InputError: the file cannot be written.
    """
    gate = {key: value for key, value in dataclasses.asdict(policy.gate).items() if value is not None}
    lines = [
        "# Written by `sparing offload calibrate`: what to send at each budget of bytes.",
        f"version = {_VERSION}",
        *_table("[geometry]", dataclasses.asdict(policy.geometry)),
        *_table("[gate]", gate),
    ]
    for budget, choice in sorted(policy.choices.items()):
        entry: dict[str, Any] = {"budget": budget}
        if choice is not None:
            entry |= {"scheme": str(choice.scheme), "fill": choice.fill, "edge_weight": choice.edge_weight}
        found = policy.scores.get(budget, {})
        entry |= {key: round(found[key], 4) for key in ("accuracy_offloaded", "mean_bytes") if key in found}
        lines += _table("[[choice]]", entry)
    try:
        Path(path).write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def read_policy(path: str | Path) -> Policy:
    """Read a policy, written by `write_policy` or by hand.

    Raises:
        InputError: no such file, not TOML, or an entry is missing, unknown or out of range; it is named.
    """
    try:
        with Path(path).open("rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    if data.get("version") != _VERSION:
        raise InputError(f"{path}: version {data.get('version')!r}, this release reads version {_VERSION}")
    choices: dict[int, Choice | None] = {}
    scores: dict[int, dict[str, Any]] = {}
    try:
        for entry in data["choice"]:
            budget = entry["budget"]
            if not isinstance(budget, int) or budget < 1:
                raise InputError(f"the budget {budget!r} must be a whole number of bytes from 1 up")
            choices[budget] = _choice(entry, budget)
            scores[budget] = {k: entry[k] for k in ("accuracy_offloaded", "mean_bytes") if k in entry}
        return Policy(choices, Geometry(**data["geometry"]), Gate(**data["gate"]), scores)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]!r} is missing") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error


def _choice(entry: dict[str, Any], budget: int) -> Choice | None:
    if "scheme" not in entry:
        return None
    fill, weight = entry.get("fill", budget), entry.get("edge_weight", 0.0)
    if not (isinstance(fill, int) and 1 <= fill <= budget):
        raise InputError(f"fill must be a whole number from 1 to the budget {budget}, got {fill!r}")
    if not (isinstance(weight, int | float) and 0 <= weight <= 100):
        raise InputError(f"edge_weight must be a number from 0 to 100, got {weight!r}")
    return Choice(Scheme.parse(str(entry["scheme"])), fill, float(weight))


def _table(head: str, values: dict[str, Any]) -> list[str]:
    shown = [
        f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
        for key, value in values.items()
    ]
    return ["", head, *shown]
