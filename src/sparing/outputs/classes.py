"""Outputs that are distributions over classes: a softmax per sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Meta, Struct

from sparing.errors import InputError
from sparing.numerics.distributions import UNCERTAINTY, as_distributions, entropy
from sparing.outputs.kind import Float32
from sparing.storage.readers import as_kind

TOP = 10
"""How many of the largest log-probabilities `signal` returns."""


class _Spec(Struct, frozen=True):
    type: str
    version: int
    n_classes: Annotated[int, Meta(ge=2)]
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Classes:
    """Distributions over C classes; outputs are arrays of shape (m, C), float32, rows summing to 1.

    Attributes:
        n_classes: C, at least 2.
        classes: the C class names, in the order of the columns; None when unknown.
    """

    n_classes: int
    classes: tuple[str, ...] | None = None

    name: ClassVar[str] = "classes"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.classes is not None and len(self.classes) != self.n_classes:
            raise InputError(
                f"{len(self.classes)} class names for distributions over {self.n_classes} classes"
            )

    def spec(self) -> dict[str, Any]:
        """Return what a file records of the kind."""
        names = None if self.classes is None else list(self.classes)
        return {"type": self.name, "version": self.version, "n_classes": self.n_classes, "classes": names}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the kind that `spec` describes."""
        read = as_kind(dict(spec), _Spec, "the kind of output")
        return cls(read.n_classes, read.classes)

    @classmethod
    def of(cls, outputs: Float32) -> Self:
        """Return the kind with as many classes as some distributions have."""
        return cls(outputs.shape[1])

    def check(self, values: Any, *, what: str, ids: Sequence[object] | None = None) -> Float32:
        """Validate distributions; see `sparing.numerics.distributions.as_distributions`.

        Raises:
            InputError: a row is no distribution, or over another number of classes.
        """
        probs = as_distributions(values, what=what, ids=ids)
        if probs.shape[1] != self.n_classes:
            raise InputError(
                f"{what}: {probs.shape[1]} classes, where {self.n_classes} are expected: "
                "old and new models share their classes, or the lists of both are given by name (--classes)"
            )
        return probs

    def padded(self, outputs: Float32) -> Float32:
        """Return distributions over the first of the C classes as distributions over all of them.

        Args:
            outputs: shape (m, D), D at most C.

        Returns:
            Shape (m, C); the further classes have zero mass.
        """
        missing = self.n_classes - outputs.shape[1]
        return np.pad(outputs, ((0, 0), (0, missing))) if missing else outputs

    def matches(self, outputs: Float32) -> bool:
        """Return whether distributions are over C classes."""
        return int(outputs.shape[1]) == self.n_classes

    def join(self, parts: Sequence[Float32]) -> Float32:
        """Return the distributions of several parts, one after the other."""
        return np.concatenate([np.zeros((0, self.n_classes), np.float32), *parts])

    def to_columns(self, outputs: Float32) -> dict[str, pa.Array]:
        """Return one column, `probs`: lists of C floats of 32 bits."""
        flat = pa.array(np.ascontiguousarray(outputs, np.float32).ravel())
        return {"probs": pa.FixedSizeListArray.from_arrays(flat, self.n_classes)}

    def from_columns(self, table: pa.Table) -> Float32:
        """Read the column `probs`."""
        column = table["probs"]
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        probs: Float32 = column.flatten().to_numpy().reshape(-1, self.n_classes)
        return probs

    def signal(self, outputs: Float32) -> Float32:
        """Return the ten largest log-probabilities, largest first, and the entropy in nats."""
        width = min(TOP, self.n_classes)
        top = -np.sort(-np.partition(outputs, -width, axis=1)[:, -width:], axis=1)
        return np.hstack([np.log(np.maximum(top, 1e-6)), entropy(outputs)[:, None]]).astype(np.float32)

    @property
    def uncertainties(self) -> Mapping[str, Callable[[Float32], npt.NDArray[np.floating[Any]]]]:
        """Entropy, one minus the largest probability, one minus the margin."""
        return UNCERTAINTY

    def agree(self, a: Float32, b: Float32) -> Float32:
        """Return 1 where both have the same most probable class, else 0."""
        same: Float32 = (a.argmax(axis=1) == b.argmax(axis=1)).astype(np.float32)
        return same

    def change(self, old: Float32, new: Float32) -> Float32:
        """Return the entropy decrease, in nats (PURE, Equation 4)."""
        return (entropy(old) - entropy(new)).astype(np.float32)

    def correct(self, outputs: Float32, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return where the most probable class is the label."""
        right: npt.NDArray[np.bool_] = outputs.argmax(axis=1) == labels
        return right


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse class names of which two are the same: agreement, exports and pages go by name.

    Args:
        names: C names, in label order.
        where: where they come from, for the error message.

    Raises:
        InputError: a name occurs twice; both places are named, counted from 1.
    """
    seen: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        if name in seen:
            raise InputError(
                f"{where}: class {place} is named {name!r}, as class {seen[name]} is: give each class a name "
                "of its own"
            )
        seen[name] = place


def joined_names(
    cached: Sequence[str], models: Sequence[Sequence[str]], rename: Mapping[str, str]
) -> tuple[str, ...]:
    """Return one list of class names for a cache and for models that know other classes.

    Args:
        cached: the C class names of the cache; they keep their places.
        models: the class names of each model; those that the cache lacks follow, in their order.
        rename: new names of classes, by their old ones; a name that no list has any more is passed over where
            its new name is known.

    Returns:
        At least C names, all different.

    Raises:
        InputError: two classes would have one name, a class to rename is unknown, or a model shares no class
            with the cache.
    """
    known = {*cached, *(name for names in models for name in names)}
    for before, after in rename.items():
        if before not in known and after not in known:
            raise InputError(f"rename {before}={after}: there is no class {before!r}, and no {after!r}")
    result = renamed(cached, rename, "the cache")
    for names in models:
        own = renamed(names, rename, "a model")
        if not set(own) & set(result[: len(cached)]):
            raise InputError(
                f"a model and the cache share no class: the model's first is {own[0]!r}, the cache's "
                f"{result[0]!r}. Check the order of the options, or rename classes (--rename)"
            )
        result = (*result, *(name for name in own if name not in result))
    return result


def renamed(names: Sequence[str], rename: Mapping[str, str], where: str) -> tuple[str, ...]:
    """Rename classes.

    Args:
        names: C class names.
        rename: new names by old ones.
        where: where the names come from, for the error message.

    Raises:
        InputError: two classes would have one name.
    """
    result = tuple(rename.get(name, name) for name in names)
    seen: dict[str, str] = {}
    for before, after in zip(names, result, strict=True):
        if after in seen:
            raise InputError(
                f"{where}: the classes {seen[after]!r} and {before!r} would both be named {after!r}; two "
                "classes cannot become one"
            )
        seen[after] = before
    return result
