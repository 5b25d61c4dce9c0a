"""Schemes side by side without a network: what each does at each budget, on images that the gate offloads."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError, ModelError
from sparing.offload.edge import pool
from sparing.offload.gate import Gate
from sparing.offload.link import Link
from sparing.offload.models import EdgeModel, EdgeOutput, Geometry, Pixels, ServerModel
from sparing.offload.schemes import Scheme
from sparing.offload.wire.payload import unpack

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

MAX_BATCH = 256


@dataclass(frozen=True)
class Bench:
    """What schemes are compared on: the images that the gate offloads, and what the edge and server say.

    Attributes:
        pixels: shape (m, height, width, 3), the offloaded images.
        seen: what the edge says about them.
        labels: shape (m,), their classes; without labels, the server's answers to the whole images.
        ceiling: the server's accuracy on the whole, uncoded images.
        requests: how many images there were before the gate.
        kept_right: how many of those that were kept the edge answered rightly.
        geometry: of the images.
        labelled: whether `labels` are labels.
    """

    pixels: Pixels
    seen: EdgeOutput
    labels: Labels
    ceiling: float
    requests: int
    kept_right: int
    geometry: Geometry
    labelled: bool

    @classmethod
    def make(
        cls,
        pixels: Pixels,
        labels: Labels | None,
        edge: EdgeModel,
        server: ServerModel,
        gate: Gate,
    ) -> "Bench":
        """Run the edge on all images and the server on those that the gate offloads.

        Args:
            pixels: shape (n, height, width, 3).
            labels: shape (n,), all known; None to take the server's answers for labels.
            edge: the small model.
            server: the large model.
            gate: decides what is offloaded.

        Returns:
            The bench.

        Raises:
            InputError: nothing is offloaded, or the models take different images.
            ModelError: a model failed, or they differ in the number of classes.
        """
        if edge.geometry != server.geometry:
            raise InputError(
                f"the edge model takes images of {edge.geometry}, the server model of {server.geometry}"
            )
        # Twice over what is offloaded, so that the embeddings of the rest, the largest part, are never held.
        probs = np.concatenate([edge(pixels[part]).probs for part in _batches(len(pixels))])
        offloads = gate.offloads(probs)
        if not offloads.any():
            raise InputError(f"the gate offloads none of {len(pixels)} images; lower its threshold")
        chosen = pixels[offloads]
        parts = [edge(chosen[part]) for part in _batches(len(chosen))]
        fields = ("logits", "attention", "embeddings")
        seen = EdgeOutput(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))
        answers = np.concatenate([server.whole(chosen[part]) for part in _batches(len(chosen))])
        if answers.shape[1] != probs.shape[1]:
            raise ModelError(
                f"the edge model tells {probs.shape[1]} classes apart, the server model {answers.shape[1]}"
            )
        whole = answers.argmax(axis=1)
        if labels is None:
            # What the edge keeps counts as right: nobody knows better.
            wanted, kept_right = whole, int((~offloads).sum())
        else:
            wanted = labels[offloads]
            kept_right = int((probs[~offloads].argmax(axis=1) == labels[~offloads]).sum())
        return cls(
            pixels=chosen,
            seen=seen,
            labels=wanted,
            ceiling=float((whole == wanted).mean()),
            requests=len(pixels),
            kept_right=kept_right,
            geometry=edge.geometry,
            labelled=labels is not None,
        )


def _batches(rows: int) -> list[slice]:
    return [slice(at, at + MAX_BATCH) for at in range(0, rows, MAX_BATCH)]


@dataclass(frozen=True)
class Trial:
    """What one scheme does at one budget.

    Attributes:
        scheme: which.
        budget: bytes.
        probs: shape (m, C), the server's answers; NaN where no payload fits.
        sizes: shape (m,), bytes of each payload, 0 where there is none.
        encode_seconds: making a payload, on average over images and budgets.
    """

    scheme: Scheme
    budget: int
    probs: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.int64]
    encode_seconds: float


def try_scheme(
    scheme: Scheme, budgets: Sequence[int], bench: Bench, server: ServerModel, *, seed: int = 0
) -> list[Trial]:
    """Send every image of the bench through a scheme at several budgets, by way of real payloads.

    Raises:
        ModelError: the server model failed.
    """
    started = perf_counter()
    by_budget = scheme.encode(bench.pixels, bench.seen, bench.geometry, budgets, seed=seed)
    seconds = (perf_counter() - started) / (len(bench.pixels) * len(budgets))
    trials: list[Trial] = []
    before: list[bytes | None] = [None] * len(bench.pixels)
    probs = np.full(bench.seen.logits.shape, np.nan, dtype=np.float32)
    for budget, payloads in zip(budgets, by_budget, strict=True):
        # What a larger budget does not change is answered as before.
        probs = probs.copy()
        probs[[payload is None for payload in payloads]] = np.nan
        new = [row for row, made in enumerate(payloads) if made is not None and made != before[row]]
        for part in _batches(len(new)):
            evidence = [unpack(payloads[row] or b"", bench.geometry) for row in new[part]]
            probs[new[part]] = server.answer(evidence)
        sizes = np.array([len(payload or b"") for payload in payloads], dtype=np.int64)
        trials.append(Trial(scheme, budget, probs, sizes, seconds))
        before = payloads
    return trials


def link_seconds(trial: Trial, link: Link, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Draw how long each payload takes over a link, shape (m,); 0 where nothing is sent."""
    rng = np.random.default_rng(seed)
    return np.array([link.seconds(8 * int(size), rng) if size else 0.0 for size in trial.sizes])


def answers_of(
    trial: Trial, bench: Bench, edge_weight: float, late: npt.NDArray[np.bool_] | None = None
) -> Labels:
    """Return the classes answered: the server's and edge's pooled, or the edge's where nothing came back.

    Args:
        trial: what the server said.
        bench: what the edge said.
        edge_weight: see `edge.pool`.
        late: shape (m,), True where the answer came too late; None for nowhere.

    Returns:
        Shape (m,).
    """
    edge = bench.seen.probs
    pooled = pool(np.where(np.isnan(trial.probs), 1, trial.probs), edge, edge_weight)
    answered = trial.sizes > 0 if late is None else (trial.sizes > 0) & ~late
    return np.asarray(np.where(answered, pooled.argmax(axis=1), edge.argmax(axis=1)))


def score(
    trial: Trial, bench: Bench, edge_weight: float, *, link: Link | None = None, timeout: float = inf
) -> dict[str, Any]:
    """Measure a trial.

    Args:
        trial: what the server said.
        bench: what it was tried on.
        edge_weight: see `edge.pool`.
        link: simulates how long payloads take; None for no time.
        timeout: seconds after which the edge's answer stands.

    Returns:
        Accuracy on offloaded and on all images, share of the server's ceiling, mean and largest bytes of
        the payloads that were sent, how many were not, and seconds to make a payload; with a link also its
        mean and 95th percentile of seconds, and how many answers came too late.
    """
    seconds = link_seconds(trial, link or Link())
    late = seconds > timeout
    right = int((answers_of(trial, bench, edge_weight, late) == bench.labels).sum())
    sent = trial.sizes[trial.sizes > 0]
    over_link = (
        {}
        if link is None
        else {
            "link_seconds": float(seconds.mean()),
            "link_seconds_p95": float(np.quantile(seconds, 0.95)),
            "late": int(late.sum()),
        }
    )
    return {
        "budget": trial.budget,
        "scheme": str(trial.scheme),
        "edge_weight": edge_weight,
        "accuracy_offloaded": right / len(bench.labels),
        "accuracy": (right + bench.kept_right) / bench.requests,
        "share_of_ceiling": right / len(bench.labels) / bench.ceiling if bench.ceiling else float("nan"),
        "mean_bytes": float(sent.mean()) if len(sent) else 0.0,
        "max_bytes": int(sent.max()) if len(sent) else 0,
        "unsent": int((trial.sizes == 0).sum()),
        "encode_seconds": trial.encode_seconds,
        **over_link,
    }
