"""The router's inputs, prepared once and kept in a file while it trains."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.images import Corruption, decode_batch
from sparing.models.description import InputDescription
from sparing.models.preprocess import normalise_images, numbers
from sparing.storage.files import reserve

CHUNK = 256


class Inputs:
    """The inputs of every variant of every sample: position `v * m + i` is sample i under variant v.

    Images are resized and kept as bytes, one per channel and pixel; numbers as float32.

    Args:
        samples: what to prepare.
        variants: the corruptions of them.
        size: height and width that images are resized to; ignored for numbers.
        path: the file to keep them in; it is as large as all of them.
        mean: what is subtracted from images, per channel; numbers are centred by their own mean.
        std: what images are divided by.
        progress: called with the number of samples prepared, after every chunk.

    Raises:
        InputError: a sample is neither an image nor an array of numbers of one shape, text, or the file
            cannot be written.
    """

    def __init__(
        self,
        samples: Samples,
        variants: Sequence[Corruption],
        *,
        size: int,
        path: Path,
        mean: Sequence[float],
        std: Sequence[float],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        first = samples.fetch(np.array([0]))[0]
        self.images = isinstance(first, bytes | bytearray) or (
            isinstance(first, np.ndarray) and first.dtype == np.uint8 and first.ndim == 3
        )
        if isinstance(first, str):
            raise InputError(
                f"{samples.what}: a router takes images or numbers, and these are text; "
                "make a table of embeddings of it, and route by those"
            )
        self._resize = (size, size)
        self._description = (
            InputDescription(decode="image", resize=self._resize, mean=tuple(mean), std=tuple(std))
            if self.images
            else InputDescription()
        )
        m = len(samples)
        self._stored: npt.NDArray[Any] | None = None
        done = 0
        for v, variant in enumerate(variants):
            for start in range(0, m, CHUNK):
                rows = np.arange(start, min(start + CHUNK, m))
                part = self._prepare(samples, variant, rows)
                if self._stored is None:
                    self._stored = _create(path, part.dtype, (len(variants) * m, *part.shape[1:]))
                if part.shape[1:] != self._stored.shape[1:]:
                    raise InputError(
                        f"{samples.what}: from id {samples.ids[start].as_py()!r} on values have shape "
                        f"{part.shape[1:]}, before it {self._stored.shape[1:]}"
                    )
                self._stored[v * m + rows] = part
                done += len(rows)
                if progress is not None:
                    progress(done)
        if not self.images:
            self._description = _standardised(self._stored)

    @property
    def description(self) -> InputDescription:
        """How a sample value becomes an input; what the TOML beside the exported network says."""
        return self._description

    def __len__(self) -> int:
        return 0 if self._stored is None else len(self._stored)

    def __call__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the inputs at k positions: (k, 3, size, size) for images, else (k, ...), float32."""
        assert self._stored is not None  # noqa: S101 - there is at least one sample
        stored = np.asarray(self._stored[rows])
        if self.images:
            return normalise_images(stored, self._description, np.float32)
        mean, std = (np.array(v, dtype=np.float32) for v in (self._description.mean, self._description.std))
        standardised: npt.NDArray[np.float32] = (stored - mean) / std
        return standardised

    def _prepare(
        self, samples: Samples, variant: Corruption, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        ids = samples.ids.take(rows)
        values = variant.apply(ids, samples.fetch(rows))
        named = ids.to_pylist()
        if self.images:
            return decode_batch(named, values, channels=3, resize=self._resize)
        part = numbers(named, values, self._description, np.float32)
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            raise InputError(f"the value of id {named[int(finite.argmin())]!r} holds NaN or infinity")
        return part[:, None] if part.ndim == 1 else part


def _create(path: Path, kind: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        stored = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
        reserve(path)
        return stored
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _standardised(stored: Any) -> InputDescription:
    """Centre and scale numbers by what was seen, per feature of the last axis, chunk by chunk."""
    flat = stored.reshape(-1, stored.shape[-1])
    step = max(1, (1 << 22) // stored.shape[-1])
    parts = [flat[start : start + step].astype(np.float64) for start in range(0, len(flat), step)]
    mean = sum(part.sum(axis=0) for part in parts) / len(flat)
    variance = sum(((part - mean) ** 2).sum(axis=0) for part in parts) / len(flat)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return InputDescription(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
