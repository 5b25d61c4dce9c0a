"""Images: one decoder for everything that looks at them, and their corruption for tests of robustness.

Pillow is loaded when the first image is decoded.
"""

from sparing.images.batches import HELD_PIXELS, decode_batch, decode_in_groups
from sparing.images.corruption import BLUR, CLEAN, NOISE, SEVERITIES, Corruption, blur, noise, variants
from sparing.images.decoding import decode, encode

__all__ = [
    "BLUR",
    "CLEAN",
    "HELD_PIXELS",
    "NOISE",
    "SEVERITIES",
    "Corruption",
    "blur",
    "decode",
    "decode_batch",
    "decode_in_groups",
    "encode",
    "noise",
    "variants",
]
