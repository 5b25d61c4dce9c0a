"""A state space: named models seen as (cost, accuracy), checked, and the part that is worth considering."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from sparing.bounds.columns import Table
from sparing.bounds.numbers import read_numbers
from sparing.errors import InputError
from sparing.numerics.frontier import by_cost, static_mixture

Floats = npt.NDArray[np.floating[Any]]
Envelope = Literal["pareto", "hull", "all"]


@dataclass(frozen=True)
class States:
    """A state space in the paper's order (Equation 2): cheapest first, equal costs by accuracy.

    Attributes:
        names: N distinct names.
        costs: shape (N,), mean cost per sample, finite and not negative, ascending.
        accuracies: shape (N,), in [0, 1].
    """

    names: tuple[str, ...]
    costs: Floats
    accuracies: Floats

    def __len__(self) -> int:
        """How many states there are."""
        return len(self.names)

    def take(self, indices: Sequence[int] | npt.NDArray[np.intp]) -> "States":
        """Return the states at these positions."""
        chosen = list(map(int, indices))
        return States(tuple(self.names[i] for i in chosen), self.costs[chosen], self.accuracies[chosen])


@dataclass(frozen=True)
class Dropped:
    """A state that is left out of the approximate bounds, and why."""

    name: str
    reason: str


def make_states(names: Sequence[str], costs: npt.ArrayLike, accuracies: npt.ArrayLike) -> States:
    """Check names, costs and accuracies and put them into the paper's order.

    Args:
        names: N >= 1 distinct names.
        costs: shape (N,), mean cost per sample in any unit; finite and not negative, ties allowed.
        accuracies: shape (N,), shares in [0, 1].

    Returns:
        The states, cheapest first.

    Raises:
        InputError: no states, lengths that differ, a name twice, a cost that is negative or not finite, an
            accuracy outside [0, 1]; percentages are named as such.
    """
    cost, accuracy = np.asarray(costs, np.float64), np.asarray(accuracies, np.float64)
    if not len(names):
        raise InputError("states: there are none; at least one model with its cost and accuracy is needed")
    if cost.shape != (len(names),) or accuracy.shape != (len(names),):
        raise InputError(
            f"states: {len(names)} names, but costs of shape {cost.shape} "
            f"and accuracies of shape {accuracy.shape}"
        )
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"states: {name!r} occurs twice; give every model its own name")
        seen.add(name)
    for name, value in zip(names, cost, strict=True):
        if not np.isfinite(value) or value < 0:
            raise InputError(f"states: the cost of {name!r} is {value:g}; costs are finite and not negative")
    outside = ~((accuracy >= 0) & (accuracy <= 1))
    if outside.any():
        name, value = names[int(outside.argmax())], accuracy[outside.argmax()]
        if 1 < np.nanmax(accuracy) <= 100 and np.nanmin(accuracy) >= 0 and not np.isnan(accuracy).any():
            raise InputError(
                f"states: the accuracy of {name!r} is {value:g}; this looks like percent. "
                "Accuracies are shares in [0, 1]: divide the column by 100"
            )
        raise InputError(f"states: the accuracy of {name!r} is {value:g}; accuracies are shares in [0, 1]")
    order = by_cost(cost, accuracy)
    return States(tuple(names[i] for i in order), cost[order], accuracy[order])


def envelope(states: States, kind: Envelope = "pareto") -> tuple[States, list[Dropped]]:
    """Leave out the states that break the paper's ordering assumption (Equation 3), and say which.

    Args:
        states: the state space.
        kind: "pareto" keeps every state that is more accurate than all that cost no more; "hull" keeps those
            on the concave hull, which mixing two others cannot replace; "all" keeps everything, and then the
            approximate bounds have no guarantee.

    Returns:
        The states kept, cheapest first, and the ones left out with the reason.

    Raises:
        InputError: an unknown kind.
    """
    if kind not in get_args(Envelope):
        raise InputError(f"envelope: {kind!r} must be one of {', '.join(get_args(Envelope))}")
    if kind == "all":
        return states, []
    hull = static_mixture(states.costs, states.accuracies)
    kept: list[int] = []
    dropped: list[Dropped] = []
    for i, (name, cost, accuracy) in enumerate(
        zip(states.names, states.costs, states.accuracies, strict=True)
    ):
        if kept and accuracy <= states.accuracies[kept[-1]]:
            rival = states.names[kept[-1]]
            tied = cost == states.costs[kept[-1]]
            more = "costs as much as" if tied else "costs more than"
            dropped.append(Dropped(name, f"{more} {rival} and is not more accurate"))
            continue
        if kept and cost == states.costs[kept[-1]]:
            loser = states.names[kept.pop()]
            dropped.append(Dropped(loser, f"costs as much as {name} and is less accurate"))
        kept.append(i)
    if kind == "hull":
        on_hull = set(zip(hull.costs.tolist(), hull.accuracies.tolist(), strict=True))
        inside = [i for i in kept if (states.costs[i], states.accuracies[i]) not in on_hull]
        dropped += [Dropped(states.names[i], "is no better than a mixture of its neighbours") for i in inside]
        kept = [i for i in kept if i not in inside]
    return states.take(kept), dropped


def read_states(path: str | Path) -> States:
    """Read a state space from a CSV or Parquet table with the columns name, cost and accuracy.

    Args:
        path: the table; further columns are ignored. Numbers are read as by `read_numbers`: "77.7%" is an
            accuracy of 0.777, and costs may be "1,200" or "2.1 ms", in one unit.

    Returns:
        The states, cheapest first.

    Raises:
        InputError: the file cannot be read, a column is missing or holds something else than numbers (row and
            value are named), or `make_states` objects.
    """
    table = Table(path)
    table.need("name", "cost", "accuracy")
    columns = table.read(["name", "cost", "accuracy"])
    costs, _ = read_numbers(columns["cost"], f"{path}: cost")
    accuracies, unit = read_numbers(columns["accuracy"], f"{path}: accuracy")
    if unit not in ("", "%"):
        raise InputError(f"{path}: accuracy has the unit {unit!r}; accuracies are shares in [0, 1], or in %")
    names = ["" if name is None else str(name) for name in columns["name"].to_pylist()]
    if "" in names:
        raise InputError(f"{path}: row {names.index('') + 1}: the name is empty")
    return make_states(names, costs, accuracies)
