"""What is known of an expert: how to load it, what it is, what it costs."""

import math
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta


@dataclass(frozen=True)
class Latency:
    """How long one call takes on this machine, warm, the preparation of its samples included.

    Attributes:
        batch_size: samples per call.
        median: seconds per call.
        p95: seconds per call that 95 % of the calls stay within.
        calls: how many were measured.
        times: seconds of each of them, ascending; empty in profiles of releases that did not keep them.
    """

    batch_size: Annotated[int, Meta(ge=1)]
    median: Annotated[float, Meta(ge=0)]
    p95: Annotated[float, Meta(ge=0)]
    calls: Annotated[int, Meta(ge=0)]
    times: tuple[Annotated[float, Meta(ge=0)], ...] = ()

    @property
    def per_sample(self) -> float:
        """Mean seconds per sample; the median where single calls were not kept."""
        return (math.fsum(self.times) / len(self.times) if self.times else self.median) / self.batch_size

    def share_over(self, seconds: float) -> float:
        """Return which share of the calls took more than so many seconds per sample.

        Where single calls were not kept it is 1 or 0, by the median.
        """
        times = self.times or (self.median,)
        return sum(time > seconds * self.batch_size for time in times) / len(times)


@dataclass(frozen=True)
class Expert:
    """A frozen model that a router may pick.

    Attributes:
        name: what it is called.
        target: how `load_model` finds it again: a path, or package.module:name.
        digest: what it is; a router refuses another.
        single: latency of one sample at a time.
        batched: latency of a batch.
        cost: stated cost per sample in `unit`, for budgets in money or energy; None when none was stated.
        unit: what `cost` counts.
    """

    name: str
    target: str
    digest: str
    single: Latency
    batched: Latency
    cost: float | None = None
    unit: str = "seconds"
