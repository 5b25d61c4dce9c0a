"""What is known of an expert: how to load it, what it is, what it costs."""

from dataclasses import asdict, dataclass
from typing import Any

from sparing.errors import InputError


@dataclass(frozen=True)
class Latency:
    """How long one call takes on this machine, warm, the preparation of its samples included.

    Attributes:
        batch_size: samples per call.
        median: seconds per call.
        p95: seconds per call that 95 % of the calls stay within.
        calls: how many were measured.
    """

    batch_size: int
    median: float
    p95: float
    calls: int

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

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def expert_from_dict(values: dict[str, Any], what: str) -> Expert:
    """Read what `Expert.to_dict` returned.

    Args:
        values: JSON values.
        what: where they come from, for the error message.

    Returns:
        The expert.

    Raises:
        InputError: a value is missing or of another kind.
    """
    try:
        return Expert(
            name=str(values["name"]),
            target=str(values["target"]),
            digest=str(values["digest"]),
            single=latency_from_dict(values["single"], what),
            batched=latency_from_dict(values["batched"], what),
            cost=None if values["cost"] is None else float(values["cost"]),
            unit=str(values["unit"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{what}: damaged entry of an expert ({error!r}); profile again") from error


def latency_from_dict(values: dict[str, Any], what: str) -> Latency:
    """Read a latency from JSON values; InputError names `what` when they do not fit."""
    try:
        read = Latency(
            batch_size=int(values["batch_size"]),
            median=float(values["median"]),
            p95=float(values["p95"]),
            calls=int(values["calls"]),
        )
        if read.batch_size < 1 or not (0 <= read.median < float("inf") and 0 <= read.p95 < float("inf")):
            raise ValueError(f"{read}")
        return read
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{what}: damaged latency ({error!r}); profile again") from error
