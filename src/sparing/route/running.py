"""Streaming a table of samples through a router and its experts into a table of answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.samples import Samples
from sparing.data.tables import TableWriter, list_column
from sparing.errors import SparingError
from sparing.progress import OnProgress, Progress
from sparing.route.dispatch import NOBODY, Dispatched, Dispatcher
from sparing.route.router import Point, Router

CHUNK = 256
"""Samples that are read at a time: enough that an expert with a share of a tenth still gets batches."""


@dataclass
class RouteAccount:
    """What answering cost so far.

    Attributes:
        names: of the n experts.
        point: the operating point; None for a router trained for one trade-off.
        samples: n counts of answered samples.
        expert_seconds: n sums of seconds, loading left out.
        router_seconds: seconds spent choosing.
        decoding_seconds: seconds spent decoding images.
        seconds: wall seconds, reading, loading and writing included.
    """

    names: Sequence[str]
    point: Point | None
    samples: npt.NDArray[np.int64] = field(init=False)
    expert_seconds: npt.NDArray[np.float64] = field(init=False)
    router_seconds: float = 0.0
    decoding_seconds: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.samples = np.zeros(len(self.names), dtype=np.int64)
        self.expert_seconds = np.zeros(len(self.names))

    def add(self, part: Dispatched) -> None:
        """Count a batch."""
        self.samples += np.bincount(part.chosen[part.chosen != NOBODY], minlength=len(self.names))
        self.expert_seconds += part.experts
        self.router_seconds += part.router
        self.decoding_seconds += part.decoding

    def summary(self) -> dict[str, Any]:
        """Return the account as JSON values.

        Returns:
            Samples, seconds and shares by expert; `latency_mean`, the mean seconds per sample of decoding,
            router and expert, which is what budgets of latency count; `expected_cost`, the mean cost per
            sample that `calibrate` promised for the budget, and `implied_cost`, that of the shares seen here,
            both in `unit`, None without a budget.
        """
        total = int(self.samples.sum())
        shares = self.samples / max(total, 1)
        working = float(self.decoding_seconds + self.router_seconds + self.expert_seconds.sum())
        point = self.point
        return {
            "samples": total,
            "experts": {
                name: {"samples": int(count), "share": float(share), "seconds": float(seconds)}
                for name, count, share, seconds in zip(
                    self.names, self.samples, shares, self.expert_seconds, strict=True
                )
            },
            "router_seconds": float(self.router_seconds),
            "decoding_seconds": float(self.decoding_seconds),
            "seconds": self.seconds,
            "latency_mean": working / max(total, 1),
            "budget": None if point is None else point.budget,
            "unit": None if point is None else point.unit,
            "expected_cost": None if point is None else point.expected_cost,
            "implied_cost": None if point is None else float(shares @ np.array(point.costs)),
        }


def run(
    samples: Samples,
    router: Router,
    out: str | Path,
    *,
    point: Point | None,
    progress: OnProgress | None = None,
) -> RouteAccount:
    """Answer every sample and write the answers; memory does not grow with their number, but for the ids.

    The table has the columns `id`, `probs`, `prediction` (the likeliest class), `class` (its name, where the
    router knows the names) and `expert`, in the order of the samples.

    Args:
        samples: what to answer.
        router: an open router.
        out: the Parquet file to write; it appears whole or not at all.
        point: the operating point; None as for `Router.choose`.
        progress: called after every chunk.

    Returns:
        What it cost.

    Raises:
        InputError: a sample cannot be read, or does not fit the router; its id is named.
        ModelError: an expert cannot be loaded or failed on a sample, which is named.
    """
    started = perf_counter()
    dispatcher = Dispatcher(router, point)
    account = RouteAccount([expert.name for expert in router.experts], point)
    with TableWriter(out) as writer:
        for start in range(0, len(samples), CHUNK):
            ids = samples.ids[start : start + CHUNK]
            values = samples.fetch(np.arange(start, start + len(ids)))
            part = dispatcher.answer(ids.to_pylist(), values)
            writer.write(_table(ids, part, router))
            account.add(part)
            account.seconds = perf_counter() - started
            if progress is not None:
                done = start + len(ids)
                left = account.seconds / done * (len(samples) - done)
                progress(Progress(done, len(samples), account.seconds, left))
    account.seconds = perf_counter() - started
    return account


def _table(ids: pa.Array, part: Dispatched, router: Router) -> pa.Table:
    """Arrange one chunk of answers; raises the error of the first sample that has none."""
    rows: list[npt.NDArray[np.float32]] = []
    for answer in part.answers:
        if isinstance(answer, SparingError):
            raise answer
        rows.append(answer)
    probs = np.stack(rows)
    prediction = probs.argmax(axis=1)
    columns: dict[str, Any] = {
        "id": ids,
        "probs": list_column(probs),
        "prediction": pa.array(prediction, pa.int64()),
    }
    names = router.description.classes
    if names is not None:
        columns["class"] = pa.array([names[at] for at in prediction], pa.string())
    experts = [expert.name for expert in router.experts]
    columns["expert"] = pa.array([experts[at] for at in part.chosen], pa.string())
    return pa.table(columns)
