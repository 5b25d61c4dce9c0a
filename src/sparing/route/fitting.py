"""The training loop: fit a router's network to prepared inputs and what the experts say. Needs torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sparing.errors import InputError, StorageError
from sparing.numerics.distributions import entropy
from sparing.route.losses import benefit_loss, entropy_loss, trade_off_loss
from sparing.storage.files import replacing

_ROWS = 4096

Lookup = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""From k positions to the experts' log-probabilities there, shape (k, n, C)."""


@dataclass(frozen=True)
class Settings:
    """How a router is trained; the defaults are the paper's (section 4.2) where it states them.

    Attributes:
        objective: "benefit", "trade-off" or "entropy".
        trade_off: the paper's lambda, in [0, 1]; None unless the objective is "trade-off".
        temperature: tau of the Gumbel-softmax.
        epochs: passes over the samples, every variant of each included.
        batch_size: samples per step.
        learning_rate: of Adam.
        seed: of the weights, the order of the samples and the noise.
        device: where torch trains, for example "cpu" or "cuda".
        precision: "float32", or "bfloat16" for the network's matrix products, which is faster where the
            processor has it.
    """

    objective: str = "benefit"
    trade_off: float | None = None
    temperature: float = 1.0
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if (self.objective == "trade-off") != (self.trade_off is not None):
            raise InputError('the objective "trade-off" needs a trade-off, and no other takes one')
        if self.trade_off is not None and not 0 <= self.trade_off <= 1:
            raise InputError(f"the trade-off must be from 0 (latency) to 1 (accuracy), got {self.trade_off}")
        if self.objective not in ("benefit", "trade-off", "entropy"):
            raise InputError(f"unknown objective {self.objective!r}; there are benefit, trade-off, entropy")
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f"unknown precision {self.precision!r}; there are float32 and bfloat16")
        for name in ("temperature", "epochs", "batch_size", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")


def fit(
    network: nn.Module,
    inputs: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]],
    *,
    log_probs: Lookup,
    labels: npt.NDArray[np.int64],
    latencies: npt.NDArray[np.float64],
    settings: Settings,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a router's network, in place.

    Epoch e draws its order and its noise from the seed and e alone, so that a training resumed from its
    checkpoint ends with the same weights as one that was never stopped.

    Args:
        network: from inputs to scores (k, n).
        inputs: from k positions to the network's inputs.
        log_probs: from k positions to what the experts say there.
        labels: shape (m,), the true classes.
        latencies: shape (n,), what each expert takes; only their proportions matter.
        settings: how to train.
        checkpoint: where to keep the state after every epoch, to resume from; None for nowhere.
        fingerprint: what tells these inputs and experts from others; a checkpoint of others is refused.
        progress: called after every epoch with its number, from 1, and its mean loss.

    Returns:
        The mean loss of every epoch.

    Raises:
        InputError: the checkpoint is of another training, the device is not there, or the loss is not finite.
        StorageError: the checkpoint could not be written; the one before is still there.
    """
    try:
        network.to(settings.device).train()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise InputError(f"cannot train on the device {settings.device!r}: {error}") from error
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    if any(parameter.ndim == 4 for parameter in network.parameters()):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    m = len(labels)
    identity = {"settings": asdict(settings), "fingerprint": fingerprint, "samples": m}
    losses = _resume(checkpoint, network, optimiser, settings, identity)
    target = _Target(settings, log_probs, labels, latencies)
    for epoch in range(len(losses), settings.epochs):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        order = torch.randperm(m, generator=generator).numpy()
        total = 0.0
        for start in range(0, m, settings.batch_size):
            # In ascending order, which costs nothing in learning and reads files forwards.
            rows = np.sort(order[start : start + settings.batch_size])
            batch = torch.from_numpy(inputs(rows)).to(settings.device)
            if batch.ndim == 4:
                batch = batch.to(memory_format=torch.channels_last)  # half as fast again on processors
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                scores = network(batch)
            scores = scores.float()
            loss = target.loss(scores, rows, generator)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() * len(rows)
        if not np.isfinite(total):
            raise InputError(f"the loss of epoch {epoch + 1} is not finite; lower the learning rate")
        losses.append(total / m)
        if checkpoint is not None:
            weights = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            _save(checkpoint, {**identity, "losses": losses, **weights})
        if progress is not None:
            progress(epoch + 1, losses[-1])
    network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return losses


class _Target:
    """What the scores of some rows are to be, and how far they are from it."""

    def __init__(
        self,
        settings: Settings,
        log_probs: Lookup,
        labels: npt.NDArray[np.int64],
        latencies: npt.NDArray[np.float64],
    ) -> None:
        self.settings, self.log_probs, self.labels = settings, log_probs, labels
        self.cheapest = int(np.argmin(latencies))
        self.best = self._most_accurate() if settings.objective == "entropy" else 0
        self.latencies = torch.tensor(latencies, dtype=torch.float32, device=settings.device)

    def loss(
        self, scores: torch.Tensor, rows: npt.NDArray[np.int64], generator: torch.Generator
    ) -> torch.Tensor:
        said = self.log_probs(rows)
        labels = self.labels[rows]
        if self.settings.trade_off is not None:
            return trade_off_loss(
                scores,
                self._tensor(said),
                self._tensor(labels),
                self.latencies,
                trade_off=self.settings.trade_off,
                temperature=self.settings.temperature,
                generator=generator,
            )
        if self.settings.objective == "benefit":
            right = (said.argmax(axis=2) == labels[:, None]).astype(np.float32)
            return benefit_loss(scores, self._tensor(right))
        # Whatever the entropy, only the cheapest and the most accurate expert are worth picking by it.
        wanted = np.full(scores.shape, -np.log(said.shape[2]), dtype=np.float32)
        wanted[:, self.best] = 0.0
        wanted[:, self.cheapest] = -entropy(np.exp(said[:, self.cheapest]))
        return entropy_loss(scores, self._tensor(wanted))

    def _most_accurate(self) -> int:
        right = sum(
            (self.log_probs(rows).argmax(axis=2) == self.labels[rows, None]).sum(axis=0)
            for rows in np.array_split(np.arange(len(self.labels)), len(self.labels) // _ROWS + 1)
        )
        return int(np.argmax(right))

    def _tensor(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.settings.device)


def _save(path: Path, state: dict[str, Any]) -> None:
    try:
        with replacing(path) as draft:
            torch.save(state, draft)
    except RuntimeError as error:  # what torch raises when the disk is full
        raise StorageError(
            f"{path} could not be written: {error}. Free some space, then run it again"
        ) from error


def _resume(
    path: Path | None,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    settings: Settings,
    identity: dict[str, Any],
) -> list[float]:
    """Load a checkpoint, if there is one, and return the losses of its epochs."""
    if path is None or not path.exists():
        return []
    try:
        state = torch.load(path, map_location=settings.device, weights_only=True)
        same = {**state["settings"], "epochs": settings.epochs} == asdict(settings)
        if not same or state["samples"] != identity["samples"]:
            raise InputError(
                f"{path}: the checkpoint of another training ({state['settings']} on {state['samples']} "
                "samples); remove it, or choose another folder"
            )
        if state["fingerprint"] != identity["fingerprint"]:
            raise InputError(
                f"{path}: the checkpoint of a training on other samples, experts or sizes; remove it, or "
                "choose another folder"
            )
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        return [float(loss) for loss in state["losses"]][: settings.epochs]
    except InputError:
        raise
    except Exception as error:  # damaged files raise what they like: pickle, zip, runtime and key errors
        raise InputError(f"{path}: damaged checkpoint ({error}); remove it to start again") from error
