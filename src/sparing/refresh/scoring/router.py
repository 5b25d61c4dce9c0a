"""PURE's router: one small regressor per candidate, from the cached distribution to the entropy decrease."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from sparing.cache.encodings.scoring import largest, multiply
from sparing.numerics.distributions import entropy
from sparing.refresh.scoring.network import Layers, finish, layers_from_arrays, layers_to_arrays, regress
from sparing.refresh.scoring.scorer import Arrays, Floats, Pairs, Scorer, ScoringRows

InputForm = Literal["sorted", "plain"]

SORTED_WIDTH = 32


@dataclass(frozen=True)
class Router(Scorer):
    """Predicts each candidate's entropy decrease from the cached distribution (PURE, Equations 4 and 5).

    Attributes:
        form: "sorted" reads the largest entries in descending order, "plain" the vector as it stands.
        layers: one network per candidate.
    """

    form: InputForm
    layers: tuple[Layers, ...]

    name = "router"
    learns = True
    for_target = False
    usual_form: ClassVar[InputForm] = "sorted"

    @property
    def width(self) -> int:
        """How many entries of a distribution it reads."""
        return len(self.layers[0][0][0])

    @classmethod
    def fit(
        cls,
        pairs: Pairs,
        seed: int,
        *,
        form: InputForm | None = None,
        hidden: Sequence[int] = (64,),
        epochs: int = 30,
    ) -> Self:
        """Fit one network per candidate.

        Args:
            pairs: m rows.
            seed: fixes the start and the shuffling.
            form: "sorted" reads the largest 32 entries in descending order: it needs fewer rows, since it
                does not have to learn every class by itself. "plain" reads the whole vector, as in the paper.
            hidden: sizes of the hidden layers; 64 as in appendix B.3.
            epochs: passes over the rows.
        """
        form = form or cls.usual_form
        width = min(pairs.old.shape[1], SORTED_WIDTH)
        inputs = pairs.old if form == "plain" else descending(pairs.old, width)
        before = entropy(pairs.old)
        return cls(
            form,
            tuple(
                regress(inputs, before - entropy(outputs), hidden=hidden, epochs=epochs, seed=seed)
                for outputs in pairs.new
            ),
        )

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return predicted entropy decreases, in nats."""
        # One product for all candidates: sorting or gathering is done once.
        first = np.concatenate([layers[0][0] for layers in self.layers], axis=1)
        ends = np.cumsum([layers[0][0].shape[1] for layers in self.layers])
        result = np.empty((len(rows), len(self.layers)), dtype=np.float32)

        def fill(block: slice, products: Floats) -> None:
            parts = np.split(products, ends[:-1], axis=1)
            for column, (layers, part) in enumerate(zip(self.layers, parts, strict=True)):
                result[block, column] = finish(layers, part)[:, 0]

        multiply(rows.encoded, first, self.form == "sorted", fill)
        return result

    def to_arrays(self) -> Arrays:
        """Return the form of the input, and the networks by position of the candidate."""
        arrays = {"form": np.array(self.form)}
        for index, layers in enumerate(self.layers):
            arrays.update(layers_to_arrays(layers, f"{index}_"))
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read what `to_arrays` returned."""
        form: InputForm = "plain" if str(arrays["form"]) == "plain" else "sorted"
        networks: list[Layers] = []
        while layers := layers_from_arrays(arrays, f"{len(networks)}_"):
            networks.append(layers)
        return cls(form, tuple(networks))


class PlainRouter(Router):
    """PURE's router as in the paper: it reads the distribution as it stands."""

    name = "pure-plain"
    usual_form = "plain"


def descending(probs: Floats, width: int) -> Floats:
    """Return the largest entries of each row, largest first.

    Args:
        probs: shape (m, C).
        width: how many, at most C.

    Returns:
        Shape (m, width).
    """
    return largest(probs, width)[:, ::-1]
