"""What edge and server have to agree on before payloads can be read, and how they find out."""

import hashlib
import json
from functools import lru_cache
from typing import Any

from sparing.errors import InputError
from sparing.offload.codecs import CODECS
from sparing.offload.models import Geometry

FIRST = ("webp", "jpeg", "avif", "dct8", "dct16", "dct32")
"""What servers read that do not name their codecs, as none did at first."""


def terms_of(geometry: Geometry) -> dict[str, Any]:
    """Return what a server says of itself: version, geometry, codecs, and digests of their templates.

    The version is that of this agreement, not of payloads: later kinds and codecs are agreed on by name.
    """
    return {
        "version": 1,
        "height": geometry.height,
        "width": geometry.width,
        "patch": geometry.patch,
        "codecs": list(CODECS),
        "templates": {
            name: _digest(template)
            for name, codec in CODECS.items()
            if (template := codec.template(geometry.height, geometry.width))
        },
    }


def check_agreement(described: dict[str, Any], geometry: Geometry, codec: str, classes: int) -> None:
    """Check that a server reads what this edge will write, and answers what this edge can use.

    Args:
        described: what the server says (`Client.describe`).
        geometry: the edge's.
        codec: the codec that payloads will use; "" for raw patches.
        classes: how many the edge model tells apart.

    Raises:
        InputError: another version, geometry or number of classes, a codec that the server does not know, or
            a library that codes differently.
    """
    own = terms_of(geometry) | {"classes": classes}
    for key in ("version", "height", "width", "patch", "classes"):
        if described.get(key) != own[key]:
            raise InputError(
                f"edge and server differ in {key}: {own[key]} here, {described.get(key)!r} there"
            )
    known = described.get("codecs", FIRST)
    if codec and not (isinstance(known, list | tuple) and codec in known):
        raise InputError(
            f"the server does not read the codec {codec!r}: update sparing there, or use another codec, "
            "such as dct16"
        )
    templates = described.get("templates")
    there = templates.get(codec) if isinstance(templates, dict) else None
    if codec in own["templates"] and there != own["templates"][codec]:
        raise InputError(
            f"the server's {codec} library codes differently from this one; use another codec, such as dct16"
        )


@lru_cache(maxsize=64)
def agreement_digest(geometry: Geometry, codec: str) -> str:
    """Digest what edge and server have to agree on for one codec, to compare with every reply.

    Args:
        geometry: of the side that asks.
        codec: of the payload (`codec_of`); "" for raw patches.

    Returns:
        16 hexadecimal digits.
    """
    agreed = terms_of(geometry)
    del agreed["codecs"]  # the payload was read, so its codec is known
    agreed["templates"] = agreed["templates"].get(codec, "")
    return _digest(json.dumps([codec, agreed], sort_keys=True).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
