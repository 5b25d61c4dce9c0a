"""Pooling inside a round: which models a row holds, and the exponents that this round's labels give."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.cache import ModelInfo, Store
from sparing.cache.metadata import Metadata
from sparing.refresh.pooling.exponents import REPLACE, Judgement, choose_by_members

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

MOST_LABELS = 5000
"""So many labelled rows settle two exponents."""


@dataclass(frozen=True)
class Labelled:
    """Labelled rows of which both distributions are known: old and new (m, C), labels and held (m,)."""

    old: Floats
    new: Floats
    labels: Integers
    held: Integers


@dataclass(frozen=True)
class Held:
    """What m rows hold before something is pooled in.

    Attributes:
        ids: their ids.
        probs: shape (m, C).
        models: shape (m,), entries of the cache's list of models.
    """

    ids: pa.Array
    probs: Floats
    models: Integers

    def take(self, mine: npt.NDArray[np.bool_]) -> "Held":
        """Return some of the rows."""
        return Held(self.ids.filter(pa.array(mine)), self.probs[mine], self.models[mine])


class Pooler(Protocol):
    """What pools the outputs of a round into rows; `Pools` is the one that a refresh uses."""

    metadata: Metadata

    def judgement(self, name: str) -> Judgement:
        """Return what was decided for a joining model."""

    def join(self, old: Held, new: Floats, name: str) -> tuple[Floats, Integers]:
        """Pool a model's outputs into rows; see `Pools.join`."""


class Pools:
    """The pools of a cache while a round is committed: their names, members and exponents.

    A row that holds several models refers, like any other, to one entry of the cache's list of models; that
    entry names its members. So nothing per row is stored that a single model would not need, and each
    model's evidence is counted once.
    """

    def __init__(self, metadata: Metadata, labelled: dict[str, Labelled], seed: int) -> None:
        """Fit the exponents of each joining model to labelled rows; without any, the stated default."""
        self.metadata = metadata
        empty = metadata.kind.join([])
        none = Labelled(empty, empty, np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._seed = seed
        self._none = none
        self._judged = {
            name: choose_by_members(rows.old, rows.new, rows.labels, rows.held, seed)
            for name, rows in labelled.items()
        }

    def judgement(self, name: str) -> Judgement:
        """Return what was decided for a joining model, for rows of no set of their own."""
        return self._of(name)[1]

    def join(self, old: Held, new: Floats, name: str) -> tuple[Floats, Integers]:
        """Pool a model's outputs into rows.

        Args:
            old: what the m rows hold.
            new: shape (m, C), the model's outputs.
            name: the model; not among what the rows hold.

        Returns:
            The pooled distributions (m, C), and what the rows hold then (m,).
        """
        own, shared = self._of(name)
        probs, holds = np.empty_like(new), np.empty(len(new), dtype=np.int64)
        for index in np.unique(old.models).tolist():
            mine = old.models == index
            pooling = own.get(index, shared).pooling
            pooled = pooling.apply(old.probs[mine], new[mine])
            probs[mine] = _silent_where_unknown(pooled, new[mine], self._known(index))
            holds[mine] = self._entry(index, name, alone=pooling == REPLACE)
        return probs, holds

    def _known(self, index: int) -> npt.NDArray[np.bool_]:
        """Return which classes a model knows, (C,)."""
        names, known = self.metadata.classes, self.metadata.models[index].classes
        if names is None or known is None:
            return np.ones(self.metadata.n_classes, dtype=bool)
        return np.isin(names, known)

    def _of(self, name: str) -> tuple[dict[int, Judgement], Judgement]:
        if name not in self._judged:
            none = self._none
            self._judged[name] = choose_by_members(none.old, none.new, none.labels, none.held, self._seed)
        return self._judged[name]

    def _entry(self, held: int, name: str, alone: bool) -> int:
        models = self.metadata.models
        before = models[held].members or (models[held].name,)
        members = (name,) if alone else (*before, name)
        index = next((i for i, m in enumerate(models) if set(m.members or (m.name,)) == set(members)), None)
        if index is not None:
            return index
        label = "+".join(members)
        digests = {model.name: model.digest for model in models}
        digest = hashlib.sha256("\n".join(digests[member] for member in members).encode()).hexdigest()
        self.metadata = self.metadata.with_model(
            ModelInfo(label, f"pool:{digest}", unit="pool", members=members)
        )
        return len(models)


def _silent_where_unknown(pooled: Floats, new: Floats, known: npt.NDArray[np.bool_]) -> Floats:
    """Leave classes that the old model does not know to the new one: its zeros there say nothing.

    Args:
        pooled: shape (m, C).
        new: shape (m, C), the new model's outputs.
        known: shape (C,), which classes the old model knows.

    Returns:
        Shape (m, C): the new mass on unknown classes, and the pooled proportions among the others.
    """
    if known.all():
        return pooled
    result = np.where(known, pooled, 0)
    own = np.where(known, new, 0)
    left = own.sum(axis=1, keepdims=True)
    result *= left / np.maximum(result.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.where(known, result, new).astype(np.float32)


def stored_probs(cache: Store, part: pa.Table) -> Floats:
    """Read what the cache holds for rows of an order, in its order.

    Args:
        cache: the cache, at the version that the order was made from.
        part: columns id and position.
    """
    rows = cache.take(part["position"].to_numpy())
    order = pc.index_in(part["id"].combine_chunks(), value_set=rows.ids).to_numpy(zero_copy_only=False)
    probs: Floats = rows.probs[order.astype(np.int64)]
    return probs


def held_by(cache: Store, part: pa.Table) -> Held:
    """Read what rows of an order hold, in its order: columns id, position and model."""
    models = part["model"].to_numpy().astype(np.int64)
    return Held(part["id"].combine_chunks(), stored_probs(cache, part), models)


def spread(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Thin rows out evenly to at most `MOST_LABELS`."""
    if len(rows) <= MOST_LABELS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_LABELS).astype(np.int64)]
