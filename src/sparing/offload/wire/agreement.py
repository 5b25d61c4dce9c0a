"""What edge and server have to agree on before payloads can be read, and how they find out."""

import hashlib
import json
from functools import lru_cache
from typing import Any

from sparing.errors import InputError
from sparing.offload.codecs import containers
from sparing.offload.models import Geometry
from sparing.offload.wire.payload import VERSION


def agreement(geometry: Geometry) -> dict[str, Any]:
    """Say what edge and server have to agree on: version, geometry, and what their codecs' templates are."""
    return {
        "version": VERSION,
        "height": geometry.height,
        "width": geometry.width,
        "patch": geometry.patch,
        "templates": containers.digests(geometry.height, geometry.width),
    }


def check_agreement(described: dict[str, Any], geometry: Geometry, codec: str, classes: int) -> None:
    """Check that a server reads what this edge will write, and answers what this edge can use.

    Args:
        described: what the server says (`Client.describe`).
        geometry: the edge's.
        codec: the codec that payloads will use; "" for raw patches.
        classes: how many the edge model tells apart.

    Raises:
        InputError: another version, geometry or number of classes, or a library that codes differently.
    """
    own = agreement(geometry) | {"classes": classes}
    for key in ("version", "height", "width", "patch", "classes"):
        if described.get(key) != own[key]:
            raise InputError(
                f"edge and server differ in {key}: {own[key]} here, {described.get(key)!r} there"
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
    agreed = agreement(geometry)
    agreed["templates"] = agreed["templates"].get(codec, "")
    return hashlib.sha256(json.dumps([codec, agreed], sort_keys=True).encode()).hexdigest()[:16]
