"""Running experts on what the memo of their outputs lacks, so that a kill costs no more than a chunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.samples import Samples
from sparing.errors import ModelError
from sparing.images import Corruption
from sparing.models import Model
from sparing.progress import OnProgress, Progress
from sparing.route.hashing import keys
from sparing.route.outputs import Identity, Memo
from sparing.route.showing import Shown, show

_FETCH = 128
_LARGEST = 8192
_CHUNK_SECONDS = 10.0
"""What a chunk is meant to take: what a kill costs, against what an append costs."""


@dataclass(frozen=True)
class _Order:
    """What is missing of one variant: the samples to run, one per key, and those keys."""

    variant: Corruption
    rows: npt.NDArray[np.int64]
    keys: pa.Array


def missing(memo: Memo, samples: Samples, hashes: bytes, variants: Sequence[Corruption]) -> bool:
    """Say whether the memo lacks outputs of samples under any of the variants; see `fill`."""
    return any((memo.positions(keys(hashes, samples.ids, variant)) < 0).any() for variant in variants)


def fill(
    memo: Memo,
    samples: Samples,
    hashes: bytes,
    variants: Sequence[Corruption],
    models: Sequence[Model],
    *,
    progress: OnProgress | None = None,
) -> int:
    """Run every expert on the samples whose outputs are missing, and append those chunk by chunk.

    Args:
        memo: of the experts' outputs; nobody else may be writing to it.
        samples: m samples.
        hashes: of their contents.
        variants: how they are corrupted, one after the other.
        models: the experts, in the order of the memo.
        progress: called after every chunk.

    Returns:
        How many samples were run, over all variants; equal ones count once.

    Raises:
        InputError: a sample cannot be read, or is not an image and has to be one.
        ModelError: an expert failed; finished chunks are kept.
        StorageError: a chunk could not be written; finished ones are kept.
    """
    orders, total = [], 0
    for variant in variants:
        wanted = keys(hashes, samples.ids, variant)
        encoded = wanted.dictionary_encode()
        first = np.unique(encoded.indices.to_numpy(), return_index=True)[1].astype(np.int64)
        rows = first[memo.positions(encoded.dictionary) < 0]
        orders.append(_Order(variant, rows, wanted.take(pa.array(rows))))
        total += len(first)
    to_run = sum(len(order.rows) for order in orders)
    fetch = max(_FETCH, *(model.batch_size for model in models))
    chunk = fetch
    begun, ran = monotonic(), 0
    if progress is not None:
        progress(Progress(total - to_run, total, 0.0, None))
    for order in orders:
        start = 0
        while start < len(order.rows):
            rows = order.rows[start : start + chunk]
            memo.append(
                order.keys[start : start + chunk],
                run_experts(memo.identity, samples, rows, order.variant, models, fetch=fetch),
            )
            start += len(rows)
            ran += len(rows)
            spent = monotonic() - begun
            chunk = _chunk_rows(ran / max(spent, 1e-9), fetch)
            if progress is not None:
                done = total - to_run + ran
                progress(Progress(done, total, spent, spent / ran * (to_run - ran)))
    return ran


def _chunk_rows(rate: float, fetch: int) -> int:
    """Choose how many samples the next chunk holds, from how many were done per second."""
    wanted = int(min(rate * _CHUNK_SECONDS, _LARGEST))
    return max(wanted // fetch, 1) * fetch


def run_experts(
    identity: Identity,
    samples: Samples,
    rows: npt.NDArray[np.int64],
    variant: Corruption,
    models: Sequence[Model],
    *,
    fetch: int = _FETCH,
) -> npt.NDArray[np.float32]:
    """Run every expert on some samples.

    Args:
        identity: whose outputs are expected.
        samples: the samples.
        rows: k positions among them.
        variant: how they are corrupted.
        models: n experts.
        fetch: how many samples are read at a time.

    Returns:
        Shape (k, n, C), log-probabilities.

    Raises:
        InputError: a sample cannot be read, or is not an image and has to be one.
        ModelError: an expert failed, or returned another number of classes.
    """
    result = np.empty((len(rows), len(models), identity.n_classes), dtype=np.float32)
    for start in range(0, len(rows), fetch):
        some = rows[start : start + fetch]
        done = start
        for shown in show(samples.ids.take(pa.array(some)), samples.fetch(some), models, variant):
            part = result[done : done + len(shown.ids)]
            for expert, model in enumerate(models):
                _run(model, shown, part[:, expert])
            done += len(shown.ids)
    return result


def _run(model: Model, shown: Shown, out: npt.NDArray[np.float32]) -> None:
    values = shown.to(model)
    for start in range(0, len(values), model.batch_size):
        batch = slice(start, start + model.batch_size)
        outputs = model.log_probs(shown.ids[batch], values[batch])
        if outputs.shape[1] != out.shape[1]:
            raise ModelError(
                f"expert {model.name!r} returned {outputs.shape[1]} classes, where {out.shape[1]} are "
                "expected: experts must share their classes"
            )
        out[batch] = outputs
