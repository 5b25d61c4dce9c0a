"""Schemes: the ways to spend a number of bytes on an image, each named by a short text.

| text | what is sent |
|---|---|
| raw:POLICY[:DEPTH] | as many patches as fit, at DEPTH bits per sample (8) |
| mosaic:POLICY:COUNT:CODEC | COUNT patches as one coded image, at the best quality that fits |
| whole:CODEC[:EIGHTHS] | the image at EIGHTHS eighths (8) of its size, at the best quality that fits |

POLICY is one of `policies.POLICIES`, CODEC one of `codecs.CODECS`. Every scheme fills the budget and never
exceeds it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

import numpy as np

from sparing.errors import BudgetError, InputError
from sparing.offload.codecs import CODECS, codec_named
from sparing.offload.codecs.codec import Encoder
from sparing.offload.models import EdgeOutput, Geometry, Indices, Pixels
from sparing.offload.policies import POLICIES, select
from sparing.offload.wire import payload as wire

FORMS = "raw:POLICY[:DEPTH], mosaic:POLICY:COUNT:CODEC or whole:CODEC[:EIGHTHS]"


MAX_BUDGET = 1 << 30


def parse_budget(text: str) -> int:
    """Read an uplink budget as a person writes it.

    Args:
        text: "512B", "2KB" (2,000 bytes), "2KiB" (2,048 bytes), "1MB", "4096bit" or "512" (bytes).

    Returns:
        Whole bytes, from 1 up; bits are rounded down.

    Raises:
        BudgetError: not understood, below 1 byte or above 1 GiB.
    """
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z]*)", text.strip().lower())
    if not match or match[2] not in _UNITS:
        raise BudgetError(
            f"cannot read the budget {text!r}: write bytes such as 512B, 2KB or 2KiB, or 4096bit"
        )
    size = int(Decimal(match[1]) * _UNITS[match[2]])
    if not 1 <= size <= MAX_BUDGET:
        raise BudgetError(f"the budget {text!r} must be 1 byte to 1 GiB")
    return size


_UNITS = {
    "": Decimal(1),
    "b": Decimal(1),
    "kb": Decimal(1000),
    "kib": Decimal(1024),
    "mb": Decimal(1000) ** 2,
    "mib": Decimal(1024) ** 2,
    "bit": Decimal(1) / 8,
    "bits": Decimal(1) / 8,
}


@dataclass(frozen=True)
class Scheme:
    """A way to spend a number of bytes on an image.

    Attributes:
        kind: "raw", "mosaic" or "whole".
        policy: how patches are chosen; "" for the whole image.
        codec: how images are coded; "" for raw patches.
        depth: bits per sample of raw patches, 1 to 8.
        count: patches of a mosaic.
        eighths: scale of the whole image, 1 to 8 eighths.
    """

    kind: str
    policy: str = ""
    codec: str = ""
    depth: int = 8
    count: int = 0
    eighths: int = 8

    @classmethod
    def parse(cls, text: str) -> "Scheme":
        """Read a scheme as a person writes it.

        Raises:
            InputError: not one of the forms above, an unknown policy or codec, or a number out of range.
        """
        kind, *parts = text.strip().split(":")
        try:
            if kind == "raw" and len(parts) in (1, 2):
                scheme = cls(kind, policy=parts[0], depth=int(parts[1]) if parts[1:] else 8)
            elif kind == "mosaic" and len(parts) == 3:
                scheme = cls(kind, policy=parts[0], count=int(parts[1]), codec=parts[2])
            elif kind == "whole" and len(parts) in (1, 2):
                scheme = cls(kind, codec=parts[0], eighths=int(parts[1]) if parts[1:] else 8)
            else:
                raise InputError(f"scheme {text!r}: expected {FORMS}")
        except ValueError as error:
            raise InputError(f"scheme {text!r}: expected {FORMS}; {error}") from error
        if scheme.kind != "whole" and scheme.policy not in POLICIES:
            raise InputError(f"scheme {text!r}: the policy must be one of {', '.join(POLICIES)}")
        if scheme.kind != "raw" and scheme.codec not in CODECS:
            raise InputError(f"scheme {text!r}: the codec must be one of {', '.join(CODECS)}")
        if not (1 <= scheme.depth <= 8 and 1 <= scheme.eighths <= 8):
            raise InputError(f"scheme {text!r}: the depth and the eighths must be 1 to 8")
        if kind == "mosaic" and scheme.count < 1:
            raise InputError(f"scheme {text!r}: a mosaic needs 1 patch or more")
        return scheme

    def __str__(self) -> str:
        """Write the scheme as `parse` reads it."""
        if self.kind == "raw":
            return f"raw:{self.policy}" + (f":{self.depth}" if self.depth != 8 else "")
        if self.kind == "mosaic":
            return f"mosaic:{self.policy}:{self.count}:{self.codec}"
        return f"whole:{self.codec}" + (f":{self.eighths}" if self.eighths != 8 else "")

    def encode(
        self, pixels: Pixels, seen: EdgeOutput, geometry: Geometry, budgets: Sequence[int], *, seed: int = 0
    ) -> list[list[bytes | None]]:
        """Make the payloads of a batch, for one budget or for several at little more cost.

        Args:
            pixels: shape (m, height, width, 3).
            seen: what the edge model said about them.
            geometry: of the images.
            budgets: bytes that a payload may have at most.
            seed: of the random policy.

        Returns:
            For each budget m payloads that stay within it; None where even the smallest does not.

        Raises:
            InputError: a mosaic of more patches than there are.
        """
        # A server reads no more than this, and a noisy image can be coded to more than its raw size.
        budgets = [min(budget, wire.max_payload(geometry)) for budget in budgets]
        if self.kind == "raw":
            return [self._raw(pixels, seen, geometry, budget, seed) for budget in budgets]
        if self.kind == "mosaic":
            by_image = self._mosaics(pixels, seen, geometry, budgets, seed)
        else:
            by_image = [self._whole(image, geometry, budgets) for image in pixels]
        return [[payloads[at] for payloads in by_image] for at in range(len(budgets))]

    def _raw(
        self, pixels: Pixels, seen: EdgeOutput, geometry: Geometry, budget: int, seed: int
    ) -> list[bytes | None]:
        # The bits of the index set do not quite grow with the number of patches, so all numbers are tried.
        fits = [
            k for k in range(1, geometry.patches + 1) if wire.raw_bits(geometry, k, self.depth) <= 8 * budget
        ]
        if not fits:
            return [None] * len(pixels)
        return [
            wire.pack_raw(geometry, patches, positions, self.depth)
            for patches, positions in self._chosen(pixels, seen, geometry, max(fits), seed)
        ]

    def _mosaics(
        self, pixels: Pixels, seen: EdgeOutput, geometry: Geometry, budgets: Sequence[int], seed: int
    ) -> list[list[bytes | None]]:
        if self.count > geometry.patches:
            raise InputError(f"scheme {self}: there are only {geometry.patches} patches")
        made = []
        for patches, positions in self._chosen(pixels, seen, geometry, self.count, seed):
            head = wire.mosaic_head(geometry, positions, self.codec)
            made.append(_filled(head, wire.mosaic_of(patches), self.codec, budgets))
        return made

    def _chosen(
        self, pixels: Pixels, seen: EdgeOutput, geometry: Geometry, k: int, seed: int
    ) -> Iterator[tuple[Pixels, Indices]]:
        """Yield each image's chosen patches and their ascending positions."""
        chosen = select(self.policy, seen.attention, seen.embeddings, geometry.cols, k, seed=seed)
        for patches, padded in zip(geometry.cut(pixels), chosen, strict=True):
            positions = np.sort(padded[padded >= 0])
            yield patches[positions], positions

    def _whole(self, image: Pixels, geometry: Geometry, budgets: Sequence[int]) -> list[bytes | None]:
        if self.eighths < wire.EIGHTHS:
            image = wire.resize(image, *wire.scaled_size(geometry, self.eighths))
        return _filled(wire.whole_head(self.codec, self.eighths), image, self.codec, budgets)


def _filled(head: bytes, image: Pixels, codec: str, budgets: Sequence[int]) -> list[bytes | None]:
    fits = best_fits(image, codec, [budget - len(head) for budget in budgets])
    return [None if coded is None else head + coded for coded in fits]


def best_fits(image: Pixels, codec: str, sizes: Sequence[int]) -> list[bytes | None]:
    """Code an image for each size at about the highest quality whose code fits.

    The search takes sizes to grow with quality, which holds nearly always; where it does not, the quality
    found may not be the highest, but what is returned fits.

    Args:
        image: shape (H, W, 3).
        codec: one of `codecs.CODECS`.
        sizes: bytes that the code may have at most; may be negative.

    Returns:
        The code for each size, or None when none of those tried fits.
    """
    named = codec_named(codec)
    encode = cache(named.encoder(image))
    return [_best_fit(encode, named.qualities - 1, size) for size in sizes]


def _best_fit(encode: Encoder, highest: int, size: int) -> bytes | None:
    best, low, high = None, 0, highest if size > 0 else -1
    while low <= high:
        quality = (low + high) // 2
        coded = encode(quality)
        if coded is not None and len(coded) <= size:
            best, low = coded, quality + 1
        else:
            high = quality - 1
    return best
