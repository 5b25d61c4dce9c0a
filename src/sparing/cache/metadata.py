"""What a cache knows about itself: its models, its rounds and the routers that ranked them.

All of it travels as a property of the Lance transaction that writes the rows, so the rows of a round and the
record of that round become visible together or not at all.
"""

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sparing.errors import CacheError
from sparing.outputs import Classes, OutputKind
from sparing.storage.readers import parse_json

FORMAT = 1
"""The format that this release writes; it reads this one and older ones."""

PROPERTY = "sparing"


@dataclass(frozen=True)
class ModelInfo:
    """A model that wrote rows of a cache.

    Attributes:
        name: what the user calls it.
        digest: what it is: the digest of its file, or a callable's qualified name.
        cost: cost of one forward, in `unit`; None when unknown.
        unit: "seconds" when measured, else as the user stated.
        members: for a pool, the names of the models that its rows are made of; empty for a model.
    """

    name: str
    digest: str
    cost: float | None = None
    unit: str = "seconds"
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metadata:
    """The state and the history of a cache, as one immutable value.

    Attributes:
        n_classes: length C of every distribution.
        encoding: how distributions are stored.
        classes: the C class names, if known.
        round: the current round; 0 after the first fill.
        models: every model that the cache has heard of; rows refer to them by position.
        history: one record per committed change, oldest first; each names its operation ("op"), round,
            version and time, and a refresh carries its account.
        routers: router files by digest, base64-encoded.
    """

    n_classes: int
    encoding: str = "float16"
    classes: tuple[str, ...] | None = None
    round: int = 0
    models: tuple[ModelInfo, ...] = ()
    history: tuple[dict[str, Any], ...] = ()
    routers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> OutputKind:
        """The kind of output that the rows hold, with its dimensions."""
        return Classes(self.n_classes, self.classes)

    def model_index(self, name: str) -> int | None:
        """Find a model's position by its name."""
        return next((i for i, model in enumerate(self.models) if model.name == name), None)

    def holding(self, name: str) -> list[int]:
        """List the positions of a model and of every pool that it is part of."""
        return [i for i, model in enumerate(self.models) if name == model.name or name in model.members]

    def with_model(self, info: ModelInfo) -> "Metadata":
        """Add a model, or update the cost of one that is already there.

        Raises:
            CacheError: the name is taken by a model with another digest.
        """
        index = self.model_index(info.name)
        if index is None:
            return replace(self, models=(*self.models, info))
        known = self.models[index]
        if known.digest != info.digest:
            raise CacheError(
                f"the cache already holds rows of a model named {info.name!r} with another digest "
                f"({known.digest} there, {info.digest} here): give the new model another name"
            )
        if info.cost is None:
            return self
        return replace(self, models=(*self.models[:index], info, *self.models[index + 1 :]))

    def check_classes(self, model: str, classes: tuple[str, ...] | None) -> None:
        """Refuse a model whose class names are known to differ from the cache's.

        Raises:
            CacheError: they differ; the message names the first difference.
        """
        if classes is None or self.classes is None or classes == self.classes:
            return
        if len(classes) != len(self.classes):
            raise CacheError(f"model {model!r} has {len(classes)} classes, the cache {len(self.classes)}")
        at = next(i for i, pair in enumerate(zip(classes, self.classes, strict=True)) if pair[0] != pair[1])
        raise CacheError(
            f"class {at} is {classes[at]!r} for model {model!r} but {self.classes[at]!r} in the cache: "
            "old and new models must share their classes, in the same order"
        )

    def with_record(self, record: dict[str, Any]) -> "Metadata":
        """Append one record to the history."""
        return replace(self, history=(*self.history, record))

    def with_router(self, data: bytes) -> "Metadata":
        """Keep a router's file, found later by its digest."""
        encoded = base64.b64encode(data).decode("ascii")
        return replace(self, routers={**self.routers, router_digest(data): encoded})

    def router(self, digest: str) -> bytes:
        """Give back a router's file."""
        return base64.b64decode(self.routers[digest])

    def to_json(self) -> str:
        """Write all of it as one JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, where: str) -> "Metadata":
        """Read what `to_json` wrote.

        Raises:
            CacheError: a newer format, or not understood.
        """
        return parse_json(text, cls, f"the record in {where}", newest=FORMAT, error=CacheError)


def router_digest(data: bytes) -> str:
    """Digest of a router's file."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
