"""What the service asks of a router and its experts, in this process or in one of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError, SparingError
from sparing.route.dispatch import Dispatcher
from sparing.route.router import open_router


@dataclass(frozen=True)
class Refusal:
    """Why a sample has no answer.

    Attributes:
        message: what was wrong.
        kind: the class of the error that it began with.
        of_input: whether the sample is at fault, and not a model.
    """

    message: str
    kind: str
    of_input: bool


@dataclass(frozen=True)
class Answered:
    """What became of a batch of m samples, as values that go through a pipe.

    Attributes:
        answers: m distributions of shape (C,), or refusals.
        chosen: the position of each sample's expert, -1 when it was refused before.
        decoding: seconds spent decoding.
        router: seconds spent choosing.
        experts: seconds spent in each expert.
    """

    answers: list[npt.NDArray[np.float32] | Refusal]
    chosen: list[int]
    decoding: float
    router: float
    experts: list[float]


class Answering:
    """Answers batches by a dispatcher.

    Args:
        dispatcher: what chooses and runs the experts.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._numbers = count()

    def __call__(self, values: Sequence[Any]) -> Answered:
        """Answer a batch."""
        ids = [f"request {next(self._numbers)}" for _ in values]
        part = self._dispatcher.answer(ids, values)
        return Answered(
            answers=[_refusal(each) if isinstance(each, SparingError) else each for each in part.answers],
            chosen=part.chosen.tolist(),
            decoding=part.decoding,
            router=part.router,
            experts=part.experts.tolist(),
        )


def load_answering(path: Path, budget: str | None, *, warm: bool, max_pixels: int | None) -> Answering:
    """Open a router and its experts, in the process that is to run them.

    Args:
        path: the router's folder.
        budget: names the operating point, as `Router.point` reads it.
        warm: whether every expert is loaded and tried before the first batch.
        max_pixels: the most pixels of an image that is decoded in this process; None for Pillow's limit.

    Raises:
        SparingError: the router or, with `warm`, an expert cannot be loaded or fails.
    """
    if max_pixels is not None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = max_pixels
    router = open_router(path)
    dispatcher = Dispatcher(router, router.point(budget))
    if warm:
        dispatcher.warm()
    return Answering(dispatcher)


def _refusal(error: SparingError) -> Refusal:
    return Refusal(str(error), type(error.__cause__ or error).__name__, isinstance(error, InputError))
