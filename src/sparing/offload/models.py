"""What offloading needs of a user's models: a grid of patches, what the edge saw, and two callables."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError, ModelError
from sparing.numerics.distributions import as_distributions, softmax

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]

MAX_SIDE = 4096
"""The longest side of an image, which bounds what a payload can make a server allocate."""


MAX_PATCHES = 4096
"""The most patches of an image; policies compare all pairs of them."""


@dataclass(frozen=True)
class Geometry:
    """An image of `height` x `width` pixels, cut into square patches that are numbered row by row.

    Attributes:
        height: pixels, a multiple of `patch`.
        width: pixels, a multiple of `patch`.
        patch: side of a patch, in pixels.
    """

    height: int
    width: int
    patch: int

    def __post_init__(self) -> None:
        sides = (self.height, self.width, self.patch)
        if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides):
            raise InputError(f"a geometry needs sides of 1 to {MAX_SIDE} pixels, got {sides}")
        if self.height % self.patch or self.width % self.patch:
            raise InputError(
                f"an image of {self.height}x{self.width} pixels cannot be cut into patches of {self.patch}"
            )

        if self.patches > MAX_PATCHES:
            raise InputError(
                f"{self.patches} patches of {self.patch} pixels are too many, use larger patches: "
                f"at most {MAX_PATCHES} in an image of {self.height}x{self.width}"
            )

    @property
    def rows(self) -> int:
        """Rows of patches."""
        return self.height // self.patch

    @property
    def cols(self) -> int:
        """Columns of patches."""
        return self.width // self.patch

    @property
    def patches(self) -> int:
        """How many patches there are."""
        return self.rows * self.cols

    def cut(self, pixels: Pixels) -> Pixels:
        """Cut images of shape (m, height, width, 3) into patches of shape (m, patches, patch, patch, 3)."""
        m, p = len(pixels), self.patch
        grid = pixels.reshape((m, self.rows, p, self.cols, p, 3)).transpose(0, 1, 3, 2, 4, 5)
        return grid.reshape(m, self.patches, p, p, 3)


@dataclass(frozen=True)
class EdgeOutput:
    """What an edge model says about m images of n patches.

    Attributes:
        logits: shape (m, C), finite.
        attention: shape (m, n), what the class token gives each patch; not negative.
        embeddings: shape (m, n, d), one vector per patch.
    """

    logits: Floats
    attention: Floats
    embeddings: Floats

    @property
    def probs(self) -> npt.NDArray[np.float32]:
        """The edge's distributions, shape (m, C)."""
        return softmax(self.logits.astype(np.float32)).astype(np.float32)


@dataclass(frozen=True)
class EdgeModel:
    """The small model on the device.

    Attributes:
        run: from images, uint8 of shape (m, height, width, 3), to an `EdgeOutput` or a tuple of its three.
        geometry: the images that `run` takes.
    """

    run: Callable[[Pixels], EdgeOutput | tuple[Any, Any, Any]]
    geometry: Geometry

    def __call__(self, pixels: Pixels) -> EdgeOutput:
        """Run the model on a batch and check what it says.

        Raises:
            ModelError: the model raised, or its output has another shape or holds NaN.
        """
        output = _run("edge model", self.run, pixels)
        try:
            parts = (
                output if isinstance(output, tuple) else (output.logits, output.attention, output.embeddings)
            )
            logits, attention, embeddings = (_array(part) for part in parts)
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(
                f"the edge model must return logits, attention and embeddings, got {type(output).__name__}"
            ) from error
        m, n = len(pixels), self.geometry.patches
        for name, array, shape in (
            ("logits", logits, (m, "C")),
            ("attention", attention, (m, n)),
            ("embeddings", embeddings, (m, n, "d")),
        ):
            _check(f"the edge model's {name}", array, shape)
        if logits.shape[1] < 2 or (len(attention) and attention.min() < 0):
            raise ModelError("the edge model must give 2 or more logits, and attention that is not negative")
        return EdgeOutput(logits, attention, embeddings)

    def classes(self) -> int:
        """Run the model on a blank image and count its logits."""
        blank = np.zeros((1, self.geometry.height, self.geometry.width, 3), dtype=np.uint8)
        return int(self(blank).logits.shape[1])


@dataclass(frozen=True)
class Evidence:
    """The patches that a server reads from a payload.

    Attributes:
        patches: shape (k, patch, patch, 3), uint8.
        positions: shape (k,), ascending positions in [0, n).
    """

    patches: Pixels
    positions: Indices


@dataclass(frozen=True)
class ServerModel:
    """The large model, which answers from some of the patches.

    Attributes:
        run: from patches, uint8 of shape (m, k, patch, patch, 3), and their positions, int64 of shape (m, k)
            in [0, n), to logits of shape (m, C); k differs from call to call, and may be n.
        geometry: the images that the patches come from.
    """

    run: Callable[[Pixels, Indices], Any]
    geometry: Geometry

    def __call__(self, patches: Pixels, positions: Indices) -> npt.NDArray[np.float32]:
        """Run the model on a batch of equally many patches each.

        Returns:
            Shape (m, C), distributions.

        Raises:
            ModelError: the model raised, or its output is not a table of finite logits.
        """
        logits = _array(_run("server model", self.run, patches, positions))
        _check("the server model's logits", logits, (len(patches), "C"))
        return as_distributions(softmax(logits.astype(np.float32)), what="the server model's output")

    def answer(self, batch: Sequence[Evidence]) -> list[npt.NDArray[np.float32]]:
        """Run the model on evidence of differing numbers of patches, one call for each number.

        Args:
            batch: m pieces of evidence.

        Returns:
            m distributions of shape (C,).

        Raises:
            ModelError: the model failed.
        """
        by_count: defaultdict[int, list[int]] = defaultdict(list)
        for row, evidence in enumerate(batch):
            by_count[len(evidence.positions)].append(row)
        answers: dict[int, npt.NDArray[np.float32]] = {}
        for rows in by_count.values():
            patches = np.stack([batch[row].patches for row in rows])
            positions = np.stack([batch[row].positions for row in rows])
            answers.update(zip(rows, self(patches, positions), strict=True))
        return [answers[row] for row in range(len(batch))]

    def whole(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Run the model on all patches of images of shape (m, height, width, 3)."""
        positions = np.tile(np.arange(self.geometry.patches), (len(pixels), 1))
        return self(self.geometry.cut(pixels), positions)


def _run(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise ModelError(f"the {name} failed: {type(error).__name__}: {error}") from error


def _array(values: Any) -> Floats:
    # A torch tensor that wants its gradient refuses to become an array by itself.
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values)


def _check(what: str, array: Floats, shape: tuple[int | str, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        isinstance(wanted, str) or wanted == got for wanted, got in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "fiu":
        wanted = ", ".join(map(str, shape))
        raise ModelError(f"{what} must be numbers of shape ({wanted}), got {array.shape} of {array.dtype}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32)).all()  # what is computed with
    if not finite:
        raise ModelError(f"{what} hold NaN, infinity or what float32 cannot hold")
