"""Dispatch: a batch is split by chosen expert, each part runs together, answers keep the order of arrival."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import ModelError, SparingError
from sparing.images import decode_in_groups, encode
from sparing.models import Model, load_model
from sparing.models.digests import same_model
from sparing.route.choosing import Indices
from sparing.route.experts import Expert
from sparing.route.labels import listed
from sparing.route.router import Point, Router

Answer = npt.NDArray[np.float32] | SparingError
"""A distribution of shape (C,), or why there is none."""

NOBODY = -1
"""Stands for the expert of a sample that was refused before one was chosen."""


class Experts:
    """The experts of a router, each loaded when it is first used.

    Args:
        experts: in the order of the router's scores.
        classes: the class names that the router knows; None when unknown.
    """

    def __init__(self, experts: Sequence[Expert], classes: tuple[str, ...] | None = None) -> None:
        self.experts = tuple(experts)
        self._names = classes
        self._count = None if classes is None else len(classes)
        self._models: dict[int, Model] = {}

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the experts that have been used."""
        return tuple(expert.name for at, expert in enumerate(self.experts) if at in self._models)

    def load(self, which: int) -> Model:
        """Load an expert, unless it is loaded already.

        Args:
            which: its position.

        Returns:
            The model.

        Raises:
            ModelError: it cannot be loaded, is not what the router was trained for, or has other classes.
        """
        if which not in self._models:
            expert = self.experts[which]
            model = load_model(f"{expert.name}={expert.target}")
            if not same_model(model.digest, expert.digest):
                raise ModelError(
                    f"expert {expert.name!r}: {expert.target} is {model.digest}, but the router was trained "
                    f"for {expert.digest}; put that file back, or profile and train again"
                )
            if None not in (model.classes, self._names) and model.classes != self._names:
                raise ModelError(
                    f"expert {expert.name!r}: its classes are {listed(model.classes)}, those of the router "
                    f"{listed(self._names)}; profile and train again"
                )
            self._models[which] = model
        return self._models[which]

    def answer(
        self,
        ids: Sequence[object],
        values: Sequence[Any],
        chosen: Indices,
        *,
        encoded: Sequence[Any] | None = None,
    ) -> tuple[list[Answer], npt.NDArray[np.float64]]:
        """Run every sample through its expert.

        An expert gets its samples together, in batches of its own size. If a batch fails, its samples are
        tried one by one, so that only those that cannot be answered fail.

        Args:
            ids: m sample ids.
            values: m sample values; for images, decoded ones.
            chosen: shape (m,), the position of each sample's expert.
            encoded: m values for experts that do not take decoded images; None when `values` suit all.

        Returns:
            m answers in the order of the ids, and shape (n,), the seconds each expert took, without loading.
        """
        answers: dict[int, Answer] = {}
        seconds = np.zeros(len(self.experts))
        for which in np.unique(chosen).tolist():
            rows = np.flatnonzero(chosen == which).tolist()
            try:
                model = self.load(which)
            except SparingError as error:
                answers.update(dict.fromkeys(rows, error))
                continue
            given = values if model.takes_pixels or encoded is None else encoded
            started = perf_counter()
            for start in range(0, len(rows), model.batch_size):
                batch = rows[start : start + model.batch_size]
                answers.update(zip(batch, self._run(model, ids, given, batch), strict=True))
            seconds[which] = perf_counter() - started
        return [answers[row] for row in range(len(ids))], seconds

    def _run(
        self, model: Model, ids: Sequence[object], values: Sequence[Any], rows: list[int]
    ) -> list[Answer]:
        try:
            probs = model([ids[row] for row in rows], [values[row] for row in rows])
            if self._count is None:
                self._count = probs.shape[1]
            if probs.shape[1] != self._count:
                raise ModelError(
                    f"expert {model.name!r} returned {probs.shape[1]} classes, the others {self._count}: "
                    "they do not answer the same question"
                )
        except SparingError as error:
            if len(rows) == 1:
                return [error]
            return [self._run(model, ids, values, [row])[0] for row in rows]
        return list(probs)


@dataclass(frozen=True)
class Dispatched:
    """What became of a batch.

    Attributes:
        answers: m answers, in order of arrival.
        chosen: shape (m,), the position of each sample's expert, -1 when the sample was refused before.
        decoding: seconds spent decoding images, which router and experts share.
        router: seconds spent choosing.
        experts: shape (n,), seconds spent in each expert.
    """

    answers: list[Answer]
    chosen: Indices
    decoding: float
    router: float
    experts: npt.NDArray[np.float64]


class Dispatcher:
    """Sends samples to the experts that a router picks.

    Args:
        router: an open router.
        point: the operating point; None as for `Router.choose`.
    """

    def __init__(self, router: Router, point: Point | None) -> None:
        self.router = router
        self.point = point
        self.experts = Experts(router.experts, router.description.classes)

    def answer(self, ids: Sequence[object], values: Sequence[Any]) -> Dispatched:
        """Answer a batch.

        What is wrong with one sample is that sample's answer: an `InputError` when it does not fit the
        router, another `SparingError` when its expert failed.

        Args:
            ids: m sample ids.
            values: m sample values.

        Returns:
            What became of them.
        """
        parts = []
        if self.router.network.takes_pixels:
            started = perf_counter()
            done = 0
            for images in decode_in_groups(ids, values):
                decoding = perf_counter() - started
                rows = slice(done, done + len(images))
                parts.append(self._route(ids[rows], images, values[rows], decoding))
                done += len(images)
                started = perf_counter()
        else:
            parts.append(self._route(ids, values, None, 0.0))
        return Dispatched(
            answers=[answer for part in parts for answer in part.answers],
            chosen=np.concatenate([part.chosen for part in parts]),
            decoding=sum(part.decoding for part in parts),
            router=sum(part.router for part in parts),
            experts=np.sum([part.experts for part in parts], axis=0),
        )

    def warm(self) -> None:
        """Load every expert, and where images are taken, run the router and each expert on a grey one.

        Raises:
            SparingError: one of them cannot be loaded, or fails.
        """
        image, encoded = _grey()
        if self.router.network.takes_pixels:
            self.router.scores(["warm-up"], [image])
        for which in range(len(self.experts.experts)):
            self.experts.load(which)
            if self.router.network.takes_pixels:
                chosen = np.array([which], dtype=np.int32)
                (answer,), _ = self.experts.answer(["warm-up"], [image], chosen, encoded=[encoded])
                if isinstance(answer, SparingError):
                    raise answer

    def _route(
        self, ids: Sequence[object], values: Sequence[Any], encoded: Sequence[Any] | None, decoding: float
    ) -> Dispatched:
        answers: list[Any] = [value if isinstance(value, SparingError) else None for value in values]
        chosen: Indices = np.full(len(ids), NOBODY, dtype=np.int32)
        started = perf_counter()
        size = self.router.network.batch_size
        fit = [row for row, refused in enumerate(answers) if refused is None]
        for start in range(0, len(fit), size):
            self._choose(ids, values, fit[start : start + size], answers, chosen)
        router = perf_counter() - started
        rows = np.flatnonzero(chosen != NOBODY).tolist()
        results, seconds = self.experts.answer(
            [ids[row] for row in rows],
            [values[row] for row in rows],
            chosen[rows],
            encoded=None if encoded is None else [encoded[row] for row in rows],
        )
        for row, result in zip(rows, results, strict=True):
            answers[row] = result
        return Dispatched(answers, chosen, decoding, router, seconds)

    def _choose(
        self,
        ids: Sequence[object],
        values: Sequence[Any],
        rows: list[int],
        answers: list[Any],
        chosen: Indices,
    ) -> None:
        """Choose for some rows together, or one by one when together fails; fill `chosen` or `answers`."""
        try:
            scores = self.router.scores([ids[row] for row in rows], [values[row] for row in rows])
            chosen[rows] = self.router.choose(scores, self.point)
        except SparingError as error:
            if len(rows) == 1:
                answers[rows[0]] = error
                return
            for row in rows:
                self._choose(ids, values, [row], answers, chosen)


def _grey() -> tuple[npt.NDArray[np.uint8], bytes]:
    """Make a grey image, decoded and encoded."""
    pixels = np.full((224, 224, 3), 128, dtype=np.uint8)
    return pixels, encode(pixels)
