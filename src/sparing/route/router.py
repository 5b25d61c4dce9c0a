"""The trained router in its folder: the network as ONNX, and what it was trained for as JSON. Needs no torch.

- `router.onnx`: from the prepared samples to one score per expert
- `router.toml`: how a sample becomes the input, as beside any ONNX model
- `router.json`: objective, experts, latencies, calibration and operating points

Older folders name the three files `gater.*`; they load, and keep those names.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from sparing.errors import InputError, ModelError, SparingError
from sparing.models.onnx import OnnxFunction, load_function
from sparing.route.choosing import Indices, choose
from sparing.route.experts import Expert, Latency
from sparing.storage.checksums import checksum_of, sealed
from sparing.storage.files import write_text
from sparing.storage.readers import read_json

FORMAT = 1
STEM, OLD_STEM = "router", "gater"
"""What the three files are called before their suffix, now and in older folders."""

OBJECTIVES = ("benefit", "trade-off", "entropy")
"""What a router's scores are: the logit of each expert being right; the paper's routing logits; the predicted
entropy of the cheapest expert, negated, against 0 for the most accurate one."""


@dataclass(frozen=True)
class Calibration:
    """Turns scores into chances of being right: `sigmoid(scale * score + bias)`, expert by expert.

    Attributes:
        scale: n slopes, not negative.
        bias: n intercepts.
        samples: how many samples it was fitted on.
    """

    scale: tuple[float, ...]
    bias: tuple[float, ...]
    samples: int


@dataclass(frozen=True)
class Point:
    """An operating point: how to choose under one budget.

    Attributes:
        budget: the budget as the user put it, such as "5ms", "p95 20ms" or "0.4 dollars".
        costs: what each expert counts against the budget, the router's own cost included.
        multiplier: the price of one unit of cost; see `choose`.
        expected_cost: mean cost per sample on the calibration samples.
        expected_accuracy: accuracy on the calibration samples.
        unit: what costs count: "seconds"; "share", of the samples that take longer than a limit; or the unit
            of the experts' stated costs.
    """

    budget: str
    costs: tuple[float, ...]
    multiplier: Annotated[float, Meta(ge=0)]
    expected_cost: float
    expected_accuracy: float
    unit: str = ""


@dataclass(frozen=True)
class RouterDescription:
    """What `router.json` says.

    Attributes:
        objective: one of `OBJECTIVES`.
        experts: in the order of the scores.
        single: the router's own latency, one sample at a time.
        batched: the router's own latency, a batch at a time.
        classes: the experts' class names; None when unknown.
        training: how it was trained (trade-off, seed, epochs, samples, variants, ...), for the record.
        calibration: None before `calibrate`.
        points: operating points, the last calibrated first.
        files: the checksums of the other files of the folder; empty in older ones.
    """

    objective: str
    experts: tuple[Expert, ...]
    single: Latency
    batched: Latency
    classes: tuple[str, ...] | None
    training: dict[str, Any]
    calibration: Calibration | None = None
    points: tuple[Point, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


@dataclass
class Router:
    """A loaded router.

    Attributes:
        path: its folder.
        description: what it was trained for.
        network: from samples to the raw scores.
    """

    path: Path
    description: RouterDescription
    network: OnnxFunction

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The experts, in the order of the scores."""
        return self.description.experts

    def scores(self, ids: list[object], values: list[Any]) -> npt.NDArray[np.float32]:
        """Score a batch.

        Args:
            ids: m sample ids, for messages.
            values: m sample values; for images, encoded bytes or decoded uint8 arrays.

        Returns:
            Shape (m, n), one score per expert; what they mean is up to the objective.

        Raises:
            InputError: a value does not fit the router's input; its id is named.
            ModelError: the network failed, or its output has another shape or is not finite.
        """
        try:
            scores = np.asarray(self.network.function(ids, values), dtype=np.float32)
        except SparingError:
            raise
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ModelError(f"{self.path}: the router failed on {len(ids)} samples: {error}") from error
        if scores.shape != (len(ids), len(self.experts)):
            raise ModelError(
                f"{self.path}: the router returned scores of shape {scores.shape} for {len(ids)} samples and "
                f"{len(self.experts)} experts; train it again"
            )
        finite = np.isfinite(scores).all(axis=1)
        if not finite.all():
            raise ModelError(
                f"{self.path}: the router returned NaN or infinity for id {ids[int(finite.argmin())]!r} "
                f"({int((~finite).sum())} of {len(ids)} in this batch); see whether that sample holds such "
                "values, else train the router again"
            )
        return scores

    def gains(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Turn scores into what an expert is predicted to bring.

        Args:
            scores: shape (m, n), from `scores`.

        Returns:
            Shape (m, n): calibrated chances of being right for the objective `benefit`, else the scores.
        """
        if self.description.objective != "benefit":
            return scores.astype(np.float64)
        fitted = self.description.calibration
        logits = scores if fitted is None else scores * np.array(fitted.scale) + np.array(fitted.bias)
        return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60)))

    def choose(self, scores: npt.NDArray[np.float32], point: Point | None = None) -> Indices:
        """Pick one expert per sample.

        Args:
            scores: shape (m, n), from `scores`.
            point: the operating point; None for the largest score, which is what a router trained for one
                trade-off does.

        Returns:
            Shape (m,), indices of experts.

        Raises:
            InputError: the router needs an operating point and got none.
        """
        if point is None:
            if self.description.objective != "trade-off":
                raise InputError(f"{self.path}: no operating point yet; run `sparing route calibrate`")
            largest: Indices = scores.argmax(axis=1).astype(np.int32)
            return largest
        return choose(self.gains(scores), np.array(point.costs), point.multiplier)

    def point(self, budget: str | None = None) -> Point | None:
        """Find the operating point of a budget.

        Args:
            budget: as it was given to `calibrate`, spaces aside; None for the last calibrated.

        Returns:
            The point; None when the router was trained for one trade-off and none is asked for.

        Raises:
            InputError: there is no such point.
        """
        points = self.description.points
        if budget is None and (points or self.description.objective == "trade-off"):
            return points[0] if points else None
        for point in points:
            if budget is not None and "".join(point.budget.split()) == "".join(budget.split()):
                return point
        known = ", ".join(repr(point.budget) for point in points) or "none"
        asked = "no operating point" if budget is None else f"no operating point {budget!r}"
        raise InputError(f"{self.path}: {asked}; calibrated are: {known}. Run `sparing route calibrate`")


def open_router(path: str | Path, *, threads: int = 1) -> Router:
    """Open a router's folder.

    Args:
        path: the folder.
        threads: threads of one forward; the network is too small for more than one to help.

    Returns:
        The router.

    Raises:
        InputError: no such folder, or one of its files is missing or damaged.
    """
    path = Path(path)
    stem = stem_of(path)
    if stem is None:
        raise InputError(f"{path}: no router here (router.json is missing); `sparing route train` makes one")
    if not (path / f"{stem}.toml").is_file():  # without it, inputs are not prepared, and nobody sees
        raise InputError(f"{path}: {stem}.toml is missing; copy the whole folder, or train the router again")
    described = read_router(path)
    for name, crc in described.files.items():
        if (path / name).is_file() and _crc(path / name) != crc:
            raise InputError(
                f"{path / name} is damaged, or of another router: its checksum is not that in {stem}.json; "
                "copy the whole folder again, or train the router again"
            )
    return Router(path, described, load_function(path / f"{stem}.onnx", threads=threads))


def _crc(path: Path) -> str:
    return f"{checksum_of(path).crc:08x}"


def stem_of(path: Path) -> str | None:
    """Return what a router's files are called before their suffix; None where there is no router."""
    return next((stem for stem in (STEM, OLD_STEM) if (path / f"{stem}.json").is_file()), None)


def read_router(path: Path) -> RouterDescription:
    """Read `router.json`; InputError when it is damaged or of a newer version."""
    file = path / f"{stem_of(path) or STEM}.json"
    read = read_json(file, RouterDescription, newest=FORMAT)
    points = tuple(replace(p, unit=p.unit or _old_unit(p.budget)) for p in read.points)
    described = replace(read, points=points)
    problem = _problem(described)
    if problem is not None:
        raise InputError(f"{file}: {problem}; train the router again")
    return described


def _old_unit(budget: str) -> str:
    """Read the unit off a budget's name, in older files, which state it nowhere else."""
    first, _, unit = budget.partition(" ")
    return unit if unit and not first.startswith("p") else "share" if unit else "seconds"


def _problem(described: RouterDescription) -> str | None:
    """Say what in a description does not fit together; None when all of it does."""
    n = len(described.experts)
    lengths = {len(point.costs) for point in described.points}
    if described.calibration is not None:
        lengths |= {len(described.calibration.scale), len(described.calibration.bias)}
    if described.objective not in OBJECTIVES:
        return f"unknown objective {described.objective!r}; there are {', '.join(OBJECTIVES)}"
    return f"{n} experts, and numbers for {sorted(lengths)}" if n < 2 or lengths - {n} else None


def write_router(path: Path, description: RouterDescription) -> None:
    """Write `router.json`, whole or not at all; StorageError when it could not be written."""
    stem = stem_of(path) or STEM
    files = {name: _crc(path / name) for name in (f"{stem}.onnx", f"{stem}.toml") if (path / name).exists()}
    values = sealed({"format": FORMAT, **asdict(replace(description, files=files))})
    write_text(path / f"{stem}.json", json.dumps(values, indent=1) + "\n")


def with_point(description: RouterDescription, point: Point) -> RouterDescription:
    """Add an operating point, in front of the others; one of the same budget is replaced."""
    rest = tuple(other for other in description.points if other.budget != point.budget)
    return replace(description, points=(point, *rest))
