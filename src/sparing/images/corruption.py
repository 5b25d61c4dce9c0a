"""Gaussian blur and noise at four severities (routing-beats-latency, section 4.1)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.errors import InputError
from sparing.ids import hash_ids
from sparing.images.decoding import decode

SEVERITIES = ("clean", "mild", "moderate", "severe")
KINDS = ("blur", "noise")
BLUR = {"clean": 0.0, "mild": 0.75, "moderate": 1.5, "severe": 2.75}
"""Standard deviation of the Gaussian, in hundredths of the image's shorter side: images look alike at
every size."""
NOISE = {"clean": 0.0, "mild": 0.05, "moderate": 0.12, "severe": 0.32}
"""Standard deviation of the noise, where pixels go from 0 to 1."""


@dataclass(frozen=True)
class Corruption:
    """One variant of a data set: every image corrupted with one severity.

    Attributes:
        severity: one of `SEVERITIES`; "clean" leaves the values as they are.
        kinds: which kinds are applied. Each sample gets one of them, drawn by its id.
        seed: of the draw and the noise.
    """

    severity: str = "clean"
    kinds: tuple[str, ...] = KINDS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise InputError(f"unknown severity {self.severity!r}; there are {', '.join(SEVERITIES)}")
        if not self.kinds or not set(self.kinds) <= set(KINDS) or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"unknown corruption {','.join(self.kinds)!r}; there are {', '.join(KINDS)}")

    @property
    def name(self) -> str:
        """What tells this variant from every other, for example "severe blur,noise 0"."""
        return "clean" if self.severity == "clean" else f"{self.severity} {','.join(self.kinds)} {self.seed}"

    def apply(self, ids: pa.Array, values: list[Any]) -> list[Any]:
        """Corrupt samples; the same sample always comes out the same.

        Args:
            ids: m ids, an Arrow array of `string` or `int64`.
            values: m images: encoded bytes, or decoded as uint8 of shape (height, width, 3).

        Returns:
            m decoded images; for "clean" the values themselves.

        Raises:
            InputError: a value is not an image; its id is named.
        """
        if self.severity == "clean":
            return values
        draws = hash_ids(ids, self.seed)
        corrupted = []
        for sample_id, value, draw in zip(ids.to_pylist(), values, draws.tolist(), strict=True):
            pixels = decode(value, f"id {sample_id!r}")
            if self.kinds[draw % len(self.kinds)] == "blur":
                corrupted.append(blur(pixels, BLUR[self.severity]))
            else:
                corrupted.append(noise(pixels, NOISE[self.severity], seed=draw))
        return corrupted


CLEAN = Corruption()


def blur(pixels: npt.NDArray[np.uint8], strength: float) -> npt.NDArray[np.uint8]:
    """Convolve an image with a Gaussian.

    Args:
        pixels: shape (height, width, channels), uint8.
        strength: standard deviation in hundredths of the shorter side, from 0 up.

    Returns:
        The same shape, uint8.
    """
    from scipy.ndimage import gaussian_filter1d

    sigma = strength / 100 * min(pixels.shape[:2])
    blurred = pixels.astype(np.float32)
    for axis in (0, 1):
        # Below a twentieth of a pixel the Gaussian is one pixel wide; its square might not even be a number.
        blurred = gaussian_filter1d(blurred, sigma, axis=axis, mode="reflect") if sigma > 0.05 else blurred
    return _to_pixels(blurred)


def noise(pixels: npt.NDArray[np.uint8], strength: float, *, seed: int) -> npt.NDArray[np.uint8]:
    """Add independent Gaussian noise to every pixel and channel, and clip.

    Args:
        pixels: shape (height, width, channels), uint8.
        strength: standard deviation, where pixels go from 0 to 1.
        seed: of the noise.

    Returns:
        The same shape, uint8.
    """
    drawn = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
    return _to_pixels(pixels + drawn * np.float32(strength * 255))


def _to_pixels(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def variants(kinds: str | None, seed: int = 0) -> tuple[Corruption, ...]:
    """Read the option `--corrupt`: every severity of the kinds named, or the clean samples alone.

    Args:
        kinds: kinds separated by commas, such as "blur,noise"; None for clean samples alone.
        seed: of the corruption.

    Returns:
        One variant, or one per severity, clean first.

    Raises:
        InputError: an unknown kind.
    """
    if kinds is None:
        return (CLEAN,)
    named = tuple(kind.strip() for kind in kinds.split(","))
    return tuple(Corruption(severity, named, seed) for severity in SEVERITIES)
