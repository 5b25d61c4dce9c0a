"""A model: a named map from a batch of samples to distributions, checked in one place and timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError, MissingExtraError, ModelError
from sparing.models.digests import function_digest
from sparing.numerics.arrays import as_array
from sparing.numerics.distributions import as_distributions, log_softmax, softmax
from sparing.outputs import OutputKind, Outputs

Function = Callable[[list[object], list[Any]], npt.ArrayLike]
"""From m ids and m sample values to an array of shape (m, C)."""


@dataclass
class Model:
    """A named map from a batch of samples to distributions, or to outputs of another kind.

    Calling it with m ids and m values runs the batch and returns float32 of shape (m, C), rows summing to 1;
    or m outputs of its kind.

    Attributes:
        name: what the model is called in caches and reports.
        digest: what it is: "sha256:..." of its file, "callable:package.module:name source:..." of a function,
            or as the user states.
        function: from m ids and m sample values to outputs of shape (m, C); called with one batch at a time.
        cost: stated cost per sample, in `unit`; None when measured seconds are to be used.
        unit: what `cost` counts, for example "seconds", "joules" or "dollars".
        batch_size: how many samples `run` passes at a time.
        needs_samples: False when outputs are looked up by id; `function` then gets None for every value.
        logits: whether `function` returns logits, which then go through a softmax.
        classes: the class names, in the order of the outputs; None when unknown. A cache that knows
            its own refuses a model with others.
        kind: what the outputs are; None for distributions, whose number of classes the first batch tells.
        knows: the classes that the model itself knows, where its outputs were laid out over the `classes` of
            a cache, with zero mass on others; None elsewhere.
        takes_pixels: whether `function` takes decoded images (uint8 of shape (height, width, 3)) as well
            as encoded ones, so that several models can share one decoding.
    """

    name: str
    digest: str
    function: Function
    cost: float | None = None
    unit: str = "seconds"
    batch_size: int = 64
    needs_samples: bool = True
    logits: bool = False
    classes: tuple[str, ...] | None = None
    takes_pixels: bool = False
    kind: OutputKind | None = None
    knows: tuple[str, ...] | None = None
    _classes: int | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("a model needs a name")
        if self.batch_size < 1:
            raise InputError(f"model {self.name!r}: the batch size must be at least 1, got {self.batch_size}")
        if self.cost is not None and not (self.cost == 0 or 1e-18 <= self.cost <= 1e18):
            raise InputError(f"model {self.name!r}: the cost must be 0 or 1e-18 to 1e18, got {self.cost}")

    def __call__(self, ids: Sequence[object], values: Sequence[Any] | None = None) -> Outputs:
        """Run one batch.

        Args:
            ids: m sample ids.
            values: m sample values; may be left out when `needs_samples` is False.

        Returns:
            Shape (m, C), float32, rows summing to 1; or m outputs of its kind.

        Raises:
            InputError: values are missing, or not one per id.
            ModelError: the model raised, or what it returned is not one distribution per sample over the same
                classes as before; the message names the model and the ids.
        """
        if self.kind is not None:
            if not len(ids):
                return self.kind.join([])
            return self._check_kind(self.kind, self._output(list(ids), values), list(ids))
        if not len(ids):
            return np.zeros((0, self._classes or 0), dtype=np.float32)
        return self._check(self._output(list(ids), values), list(ids))

    def log_probs(
        self, ids: Sequence[object], values: Sequence[Any] | None = None
    ) -> npt.NDArray[np.float32]:
        """Run one batch and return the logarithms of its probabilities.

        Where the model returns logits, they are exact however small a probability is; where it returns
        probabilities, those below the smallest float32 count as that.

        Args:
            ids: m sample ids.
            values: m sample values; may be left out when `needs_samples` is False.

        Returns:
            Shape (m, C), float32, at most 0.

        Raises:
            InputError: as calling the model.
            ModelError: as calling the model.
        """
        if not len(ids):
            return np.zeros((0, self._classes or 0), dtype=np.float32)
        output = self._output(list(ids), values)
        probs = self._check(output, list(ids))
        if self.logits:
            return log_softmax(as_array(output).astype(np.float64)).astype(np.float32)
        return np.log(np.maximum(probs, np.finfo(np.float32).tiny))

    def _output(self, ids: list[object], values: Sequence[Any] | None) -> Any:
        """Run one batch, and return its output as it comes."""
        if self.needs_samples and values is None:
            raise InputError(f"model {self.name!r} needs the samples, but only ids were given")
        given = list(values) if self.needs_samples and values is not None else [None] * len(ids)
        if len(given) != len(ids):
            raise InputError(f"model {self.name!r}: {len(ids)} ids but {len(given)} values")
        try:
            return self.function(ids, given)
        except MissingExtraError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(f"model {self.name!r} failed on {_describe(ids)}: {_reason(error)}") from error

    def _check_kind(self, kind: OutputKind, output: Any, ids: list[object]) -> Outputs:
        try:
            outputs = kind.check(output, what=f"output of model {self.name!r}", ids=ids)
        except InputError as error:
            raise ModelError(str(error)) from error
        if len(outputs) != len(ids):
            raise ModelError(
                f"model {self.name!r} returned {len(outputs)} outputs of kind {kind.name!r} "
                f"for {_describe(ids)}"
            )
        return outputs

    def _check(self, output: npt.ArrayLike, ids: list[object]) -> npt.NDArray[np.float32]:
        try:
            array = as_array(output)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ModelError(
                f"model {self.name!r} returned no table of numbers for {_describe(ids)}: {error}"
            ) from error
        if array.ndim != 2 or len(array) != len(ids) or array.dtype.kind not in "fiu":
            raise ModelError(
                f"model {self.name!r} returned shape {array.shape} of {array.dtype} for {_describe(ids)}; "
                f"expected numbers of shape ({len(ids)}, C)"
            )
        if self._classes is not None and array.shape[1] != self._classes:
            raise ModelError(
                f"model {self.name!r} returned {array.shape[1]} classes for {_describe(ids)}, "
                f"but {self._classes} before"
            )
        if self.classes is not None and array.shape[1] != len(self.classes):
            raise ModelError(
                f"model {self.name!r} names {len(self.classes)} classes but returned {array.shape[1]}"
            )
        if self.logits:
            with np.errstate(invalid="ignore"):  # NaN and infinity are reported below, with their id
                array = softmax(array.astype(np.float32))
        try:
            probs = as_distributions(array, what=f"output of model {self.name!r}", ids=ids)
        except InputError as error:
            raise ModelError(str(error)) from error
        self._classes = probs.shape[1]
        return probs


def run(model: Model, ids: Sequence[object], values: Sequence[Any] | None = None) -> tuple[Outputs, float]:
    """Run a model over samples in batches of its batch size, and time it.

    Args:
        model: what to run.
        ids: m sample ids.
        values: m sample values; may be left out when the model does not need them.

    Returns:
        Distributions of shape (m, C), or m outputs of the model's kind, and the wall seconds spent in the
        model, its preparation of the samples included.

    Raises:
        InputError: values are missing, or not one per id.
        ModelError: the model failed on a batch; see `Model.__call__`.
    """
    if values is not None and len(values) != len(ids):
        raise InputError(f"model {model.name!r}: {len(ids)} ids but {len(values)} values")
    started = perf_counter()
    parts = []
    for start in range(0, max(len(ids), 1), model.batch_size):
        batch = slice(start, start + model.batch_size)
        parts.append(model(ids[batch], None if values is None else values[batch]))
    if len(parts) == 1:
        return parts[0], perf_counter() - started
    outputs = np.concatenate(parts) if model.kind is None else model.kind.join(parts)
    return outputs, perf_counter() - started


def from_callable(
    function: Callable[[list[Any]], npt.ArrayLike],
    *,
    name: str,
    digest: str | None = None,
    depends_on: Sequence[str | Path] = (),
    cost: float | None = None,
    unit: str = "seconds",
    batch_size: int = 64,
    logits: bool = False,
    classes: Sequence[str] | None = None,
    kind: OutputKind | None = None,
) -> Model:
    """Make a model of any Python callable.

    Args:
        function: from a list of m sample values to an array of shape (m, C).
        name: what the model is called.
        digest: what it is; change it when the model changes, since caches tell models apart by it. By default
            the function's qualified name and a hash of its source; needed for lambdas and objects.
        depends_on: files whose contents belong to the digest, such as weights that the function reads;
            relative to the folder of the function's own file. Left out where `digest` is given.
        cost: stated cost per sample, in `unit`; None to measure seconds.
        unit: what `cost` counts.
        batch_size: how many samples are passed at a time.
        logits: whether the callable returns logits instead of probabilities.
        classes: the class names, in the order of the outputs, if they are to be checked.
        kind: what the callable returns, for other kinds than distributions; see `sparing.outputs`.

    Returns:
        The model.

    Raises:
        InputError: not a callable, an empty name, a batch size below 1 or a cost below 0; or what the
            callable is cannot be told from its source, and no digest is given.
    """
    if not callable(function):
        raise InputError(f"model {name!r}: expected a callable, got {type(function).__name__}")
    if digest is None:
        try:
            digest = function_digest(function, depends_on=depends_on)
        except InputError as error:
            raise InputError(f"model {name!r}: {error}") from error
    return Model(
        name=name,
        digest=digest,
        function=lambda _, values: function(values),
        cost=cost,
        unit=unit,
        batch_size=batch_size,
        logits=logits,
        classes=None if classes is None else tuple(classes),
        kind=kind,
    )


def _describe(ids: list[object]) -> str:
    shown = [repr(i) for i in (ids if len(ids) <= 5 else [*ids[:4], "...", ids[-1]])]
    listed = ", ".join(shown).replace("'...'", "...")
    return f"a batch of {len(ids)} (ids {listed})" if len(ids) > 1 else f"the sample {listed}"


def _reason(error: BaseException) -> str:
    # Our own errors speak for themselves; others are named, since "KeyError: 3" says more than "3".
    return (
        str(error)
        if isinstance(error, InputError | ModelError)
        else " ".join(f"{type(error).__name__}: {error}".split())
    )
