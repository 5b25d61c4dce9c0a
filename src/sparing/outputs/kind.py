"""The contract of a kind of model output."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Float32 = npt.NDArray[np.float32]

Outputs = Any
"""What a kind holds of m samples: it has a length, and integer arrays index it, as with numpy arrays."""


class OutputKind(Protocol):
    """One kind of model output, with its dimensions (for classes: how many, and their names).

    Everything that a cache and a round do with outputs goes through these methods, so that a new kind is a
    new class and one entry in `sparing.outputs.KINDS`.

    Attributes:
        name: what files and reports call the kind.
        version: version of what `spec` and `to_columns` write; a reader refuses a later one.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def spec(self) -> dict[str, Any]:
        """Return what a file records of the kind, as JSON values: "type", "version" and its dimensions."""

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the kind that `spec` describes."""

    @classmethod
    def of(cls, outputs: Outputs) -> Self:
        """Return the kind with the dimensions of some checked outputs; used where nothing is known yet."""

    def check(self, values: Any, *, what: str, ids: Sequence[object] | None = None) -> Outputs:
        """Validate what a model or a file gave, one entry per sample.

        Args:
            values: m outputs, as they came.
            what: where they came from, for the error message.
            ids: the m sample ids, to name the first that is invalid.

        Raises:
            InputError: an output is invalid, or its dimensions are not this kind's.
        """

    def matches(self, outputs: Outputs) -> bool:
        """Return whether checked outputs have the dimensions of this kind."""

    def join(self, parts: Sequence[Outputs]) -> Outputs:
        """Return the outputs of several parts, one after the other; of none, outputs of length 0."""

    def to_columns(self, outputs: Outputs) -> dict[str, pa.Array]:
        """Return outputs as Arrow columns, exactly; `from_columns` reads them back."""

    def from_columns(self, table: pa.Table) -> Outputs:
        """Read what `to_columns` returned; columns of other names are ignored."""

    def signal(self, outputs: Outputs) -> Float32:
        """Return what outputs say of their own doubt, as features for a learned scorer: shape (m, d)."""

    @property
    def uncertainties(self) -> Mapping[str, Callable[[Outputs], npt.NDArray[np.floating[Any]]]]:
        """Scores by name, each from m outputs to shape (m,); higher is less sure."""

    def agree(self, a: Outputs, b: Outputs) -> Float32:
        """Return how far each pair of outputs agrees, in [0, 1]: the consistency of a cache, row by row."""

    def change(self, old: Outputs, new: Outputs) -> Float32:
        """Return what replacing each old output by the new one brings: what PURE's router regresses."""

    def correct(self, outputs: Outputs, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which outputs are right, shape (m,); False where the label is missing (-1)."""
