"""What is known of an expert: how to load it, what it is, what it costs."""

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
    """

    batch_size: Annotated[int, Meta(ge=1)]
    median: Annotated[float, Meta(ge=0)]
    p95: Annotated[float, Meta(ge=0)]
    calls: Annotated[int, Meta(ge=0)]

    @property
    def per_sample(self) -> float:
        """Median seconds per sample."""
        return self.median / self.batch_size


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
