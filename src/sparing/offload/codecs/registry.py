"""Every codec, by its name and by its number on the wire."""

from sparing.errors import InputError
from sparing.offload.codecs.avif import Avif
from sparing.offload.codecs.codec import Codec
from sparing.offload.codecs.dct import Dct
from sparing.offload.codecs.jpeg import Jpeg
from sparing.offload.codecs.palette import Palette
from sparing.offload.codecs.webp import Webp

_ALL: tuple[Codec, ...] = (
    Webp(),
    Jpeg(),
    Avif(),
    Dct(8, number=3),
    Dct(16, number=4),
    Dct(32, number=5),
    Palette(),
)

CODECS: dict[str, Codec] = {codec.name: codec for codec in _ALL}
"""Codecs by name, in the order of their numbers."""

_BY_NUMBER = {codec.number: codec for codec in _ALL}


def codec_named(name: str) -> Codec:
    """Return the codec of a name.

    Raises:
        InputError: no codec has this name.
    """
    if name not in CODECS:
        raise InputError(f"codec {name!r}: expected one of {', '.join(CODECS)}")
    return CODECS[name]


def codec_numbered(number: int) -> Codec:
    """Return the codec of a number in a payload.

    Raises:
        InputError: no codec of this release has this number.
    """
    if number not in _BY_NUMBER:
        raise InputError(f"the payload names an unknown codec ({number}); a newer release may read it")
    return _BY_NUMBER[number]
