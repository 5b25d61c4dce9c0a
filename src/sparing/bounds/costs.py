"""What each model costs: one number per model, or one per model and sample; and outcomes with their costs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from sparing.bounds.columns import Table, listed
from sparing.bounds.numbers import read_numbers
from sparing.bounds.outcomes import Missing, Outcomes, ids_of, read_outcomes
from sparing.errors import InputError
from sparing.ids import IdIndex, name_first
from sparing.storage.readers import read_toml


class _Costs(Struct, frozen=True):
    costs: dict[str, Annotated[float, Meta(ge=0)]]

    def __post_init__(self) -> None:
        if not self.costs:
            raise ValueError("costs needs one line 'model = number' per model")


def read_priced_outcomes(
    paths: Sequence[str | Path],
    costs: str | Path,
    *,
    missing: Missing = "error",
    id_column: str = "id",
    label_column: str = "label",
    classes_column: str | None = None,
) -> tuple[Outcomes, npt.NDArray[np.float64]]:
    """Read outcomes and what they cost; the costs say which columns are models.

    Args:
        paths: as for `read_outcomes`.
        costs: a TOML file (`read_costs`), or a table of costs per sample (`read_sample_costs`).
        missing: as for `read_outcomes`, like the following.
        id_column: name of the id column.
        label_column: name of the label column.
        classes_column: name of the column of options, if there is one.

    Returns:
        The outcomes of the models that have a cost, and costs of shape (N,) or (m, N). Columns without a cost
        and costs without a model are in the notes.

    Raises:
        InputError: as for the functions named, or no model has a cost.
    """
    if not paths:
        raise InputError("outcomes: no table was given")
    source = Path(costs)
    per_model = read_costs(source) if source.suffix == ".toml" else None
    priced = list(per_model) if per_model else [name for name in Table(source).names if name != id_column]
    columns = Table(paths[0]).names
    models, notes = priced, []
    if "probs" not in columns:
        models = [name for name in columns if name in set(priced)]
        if not models:
            raise InputError(
                f"{paths[0]}: no column has a cost in {costs}; the columns are {listed(columns)} "
                f"and the costs are of {listed(priced)}"
            )
        known = {*models, id_column, label_column, classes_column}
        unpriced = [name for name in columns if name not in known]
        if unpriced:
            notes.append(f"columns without a cost are not models: {listed(unpriced)}")
    outcomes = read_outcomes(
        paths,
        models=models,
        missing=missing,
        id_column=id_column,
        label_column=label_column,
        classes_column=classes_column,
    )
    absent = [name for name in priced if name not in models or name not in outcomes.names]
    if absent:
        notes.append(f"there are no outcomes of {listed(absent)}, which have a cost")
    outcomes = replace(outcomes, notes=(*outcomes.notes, *notes))
    if per_model is None:
        return outcomes, read_sample_costs(source, outcomes, id_column=id_column)
    return outcomes, np.array([per_model[name] for name in outcomes.names])


def read_costs(path: str | Path) -> dict[str, float]:
    """Read one cost per model from a TOML file with a table `[costs]`.

    Args:
        path: the file, with lines such as `resnet20 = 40.8` under `[costs]`.

    Returns:
        Cost by model name.

    Raises:
        InputError: the file cannot be read, has no such table, or a value is not a number >= 0.
    """
    return read_toml(path, _Costs).costs


def read_sample_costs(
    path: str | Path, outcomes: Outcomes, *, id_column: str = "id"
) -> npt.NDArray[np.float64]:
    """Read a table of costs per sample, with the outcomes' id column and a column per model.

    Args:
        path: CSV or Parquet; ids that the outcomes lack, and further columns, are ignored.
        outcomes: whose samples and models are wanted.
        id_column: name of the id column.

    Returns:
        Shape (m, N), in the order of the outcomes.

    Raises:
        InputError: a column, an id or a value is missing, a value is not a number, or columns differ in
            their unit.
    """
    table = Table(path)
    rows = IdIndex(ids_of(table, id_column), what=str(path)).positions(outcomes.ids)
    table.need(*outcomes.names)
    if (rows < 0).any():
        raise InputError(f"{path}: {name_first(outcomes.ids, rows < 0, lambda _: 'has no costs')}")
    costs = np.empty((len(outcomes.ids), len(outcomes.names)))
    units = {}
    for j, name in enumerate(outcomes.names):
        values, units[name] = read_numbers(table.read([name])[name], f"{path}: column {name!r}")
        first = outcomes.names[0]
        if units[name] != units[first]:
            raise InputError(
                f"{path}: column {name!r} is in {units[name] or 'no unit'}, column {first!r} in "
                f"{units[first] or 'no unit'}; write all costs in one unit"
            )
        costs[:, j] = values[rows]
        bad = ~(np.isfinite(costs[:, j]) & (costs[:, j] >= 0))
        if bad.any():
            where = outcomes.ids[int(bad.argmax())].as_py()
            raise InputError(
                f"{path}: the cost of {name!r} for id {where!r} is {costs[bad.argmax(), j]:g}; "
                "costs are finite and not negative"
            )
    return costs
