"""Codecs: how an image becomes few bytes, and back.

`codec` is the contract, `registry` names all of them; every other module is one codec, or what it needs.
"""

from sparing.offload.codecs.codec import Codec
from sparing.offload.codecs.registry import CODECS, codec_named, codec_numbered

__all__ = ["CODECS", "Codec", "codec_named", "codec_numbered"]
