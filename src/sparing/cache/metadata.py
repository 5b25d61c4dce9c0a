"""What a cache knows about itself: its models, its rounds and the rankers that ranked them.

It travels as a property of the Lance transaction that writes the rows, so the rows of a round and the record
of that round become visible together or not at all. What was recorded before, and the rankers, are in files
that are written once (`sparing.cache.record`); up to format 2 each version carried all of them.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from msgspec import Struct

from sparing.cache.layout import Layout
from sparing.cache.record import History, RecordFiles
from sparing.errors import CacheError, InputError
from sparing.outputs import Classes, OutputKind, read_kind
from sparing.storage.readers import as_kind, parse_json
from sparing.version import __version__

FORMAT = 3
"""The format that this release writes; it reads this one and older ones."""

PROPERTY = "sparing"

CHANGED = "(changed sample)"
"""Stands for the model of rows whose sample has changed since their output was computed."""


@dataclass(frozen=True)
class ModelInfo:
    """A model that wrote rows of a cache.

    Attributes:
        name: what the user calls it.
        digest: what it is: the digest of its file, or a callable's qualified name.
        cost: cost of one forward, in `unit`; None when unknown.
        unit: "seconds" when measured, else as the user stated.
        members: for a pool, the names of the models that its rows are made of; empty for a model.
        classes: the classes that it knows, where the cache has others, too; None where it knows all of them.
    """

    name: str
    digest: str
    cost: float | None = None
    unit: str = "seconds"
    members: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Metadata:
    """The state and the history of a cache, as one immutable value.

    Attributes:
        kind: what the outputs are, with their dimensions and, of distributions, the class names.
        encoding: the name of how they are stored.
        round: the current round; 0 after the first fill.
        models: every model that the cache has heard of; rows refer to them by position.
        history: one record per committed change, oldest first; each names its operation ("op"), round,
            version and time, and a refresh carries its account.
        fingerprint: what the rows' fingerprints are taken of: "value", or a column of the samples; None where
            the cache keeps none.
        rankers: ranker files by digest that are in no file of the cache yet.
        files: where the cache keeps earlier records and rankers; None for a store in memory.
    """

    kind: OutputKind
    encoding: str
    round: int = 0
    models: tuple[ModelInfo, ...] = ()
    history: Sequence[dict[str, Any]] = field(default_factory=History)
    fingerprint: str | None = None
    rankers: dict[str, bytes] = field(default_factory=dict)
    files: RecordFiles | None = field(default=None, compare=False)

    @cached_property
    def layout(self) -> Layout:
        """How the outputs are stored."""
        return Layout.of(self.kind, self.encoding)

    @property
    def n_classes(self) -> int:
        """C, for outputs that are distributions over C classes."""
        return self._classes.n_classes

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The C class names, if they are known, for outputs that are distributions over C classes."""
        return self._classes.classes

    @property
    def _classes(self) -> Classes:
        if not isinstance(self.kind, Classes):
            raise CacheError(
                f"the cache holds outputs of kind {self.kind.name!r}, not distributions over classes"
            )
        return self.kind

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
        names = self.kind.classes if isinstance(self.kind, Classes) else None
        given, info = info.classes, replace(info, classes=None if info.classes == names else info.classes)
        if index is None:
            return replace(self, models=(*self.models, info))
        known = self.models[index]
        if known.digest != info.digest:
            raise CacheError(
                f"the cache already holds rows of a model named {info.name!r} with another digest "
                f"({known.digest} there, {info.digest} here): give the new model another name"
            )
        before = known.classes or names
        if None not in (given, before) and given != before:
            raise CacheError(
                f"the cache holds rows of {info.name!r} with other classes, or in another order: "
                "give the class list that was given before, or give the new model another name"
            )
        if info.cost is None:
            return self
        info = replace(info, classes=known.classes)
        return replace(self, models=(*self.models[:index], info, *self.models[index + 1 :]))

    def check_model(
        self, model: str, classes: tuple[str, ...] | None, kind: OutputKind | None = None
    ) -> None:
        """Refuse a model whose outputs are known to be of another kind, or over other classes.

        Args:
            model: its name.
            classes: its class names, if they are known.
            kind: what it returns; None for distributions.

        Raises:
            CacheError: they differ; the message names the first difference.
        """
        name = Classes.name if kind is None else kind.name
        if name != self.kind.name:
            raise CacheError(f"model {model!r} returns {name}, but the cache holds {self.kind.name}")
        if name != Classes.name:
            return
        if classes is None or self.classes is None or classes == self.classes:
            return
        if len(classes) != len(self.classes):
            raise CacheError(f"model {model!r} has {len(classes)} classes, the cache {len(self.classes)}")
        at = next(i for i, pair in enumerate(zip(classes, self.classes, strict=True)) if pair[0] != pair[1])
        raise CacheError(
            f"class {at} is {classes[at]!r} for model {model!r} but {self.classes[at]!r} in the cache: "
            "old and new models must share their classes, in the same order"
        )

    def with_classes(self, names: Sequence[str], rename: Mapping[str, str]) -> "Metadata":
        """Widen the list of classes; every model is noted to know those that it knew.

        Args:
            names: the C class names so far, as they are named from now on, then further ones.
            rename: their new names by the old ones.
        """
        known = tuple(names[: self.n_classes])
        models = []
        for info in self.models:
            own = known if info.classes is None else tuple(rename.get(name, name) for name in info.classes)
            models.append(replace(info, classes=own))
        return replace(self, kind=Classes(len(names), tuple(names)), models=tuple(models))

    @property
    def rounds(self) -> tuple[dict[str, Any], ...]:
        """The records of the refreshes that count, oldest first: a rollback undoes those after its round."""
        found: list[dict[str, Any]] = []
        for entry in self.history:
            if entry["op"] == "rollback":
                found = [each for each in found if each["round"] <= entry["round"]]
            elif entry["op"] == "refresh":
                found.append(entry)
        return tuple(found)

    def with_record(self, record: dict[str, Any]) -> "Metadata":
        """Append one record to the history."""
        history = self.history if isinstance(self.history, History) else History(self.history)
        return replace(self, history=history.plus(record))

    def stored(self, target: RecordFiles, version: int) -> "Metadata":
        """Write the records and rankers that are in no file yet into files.

        Args:
            target: where.
            version: the version that is about to be committed.

        Returns:
            The same metadata, which refers to the files.

        Raises:
            CacheError: writing failed.
        """
        history = self.history if isinstance(self.history, History) else History(self.history)
        for data in self.rankers.values():
            target.add_ranker(data, version)
        return replace(self, history=history.stored(target, version), rankers={}, files=target)

    def with_ranker(self, data: bytes) -> "Metadata":
        """Keep a ranker's file, found later by its digest."""
        return replace(self, rankers={**self.rankers, ranker_digest(data): data})

    def ranker(self, digest: str) -> bytes:
        """Return a ranker's file.

        Raises:
            CacheError: the cache has lost it.
        """
        if digest in self.rankers or self.files is None:
            return self.rankers[digest]
        return self.files.ranker(digest)

    def to_json(self) -> str:
        """Return what a version carries, as one JSON text; see `stored` for the rest."""
        history = self.history if isinstance(self.history, History) else History(self.history)
        values = {
            "format": FORMAT,
            "sparing": __version__,
            "kind": self.kind.spec(),
            "encoding": self.layout.element(),
            "round": self.round,
            "models": [asdict(model) for model in self.models],
            "history": history.recent,
            **({} if self.fingerprint is None else {"fingerprint": self.fingerprint}),
            "before": None
            if history.before is None
            else {"file": history.before, "records": history.earlier},
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str, where: str, source: RecordFiles | None = None) -> "Metadata":
        """Read what `to_json` wrote, here or in an earlier release.

        Args:
            text: the JSON text.
            where: what to call the cache in errors.
            source: where the cache keeps earlier records and rankers.

        Raises:
            CacheError: a newer format, or not understood.
        """
        where = f"the record in {where}"
        document = parse_json(text, dict[str, Any], where, error=CacheError)
        written = document.get("format")
        if isinstance(written, int) and written > FORMAT:
            raise CacheError(
                f"{where} was written by a newer release of Sparing (format {written}, this release reads up "
                f"to {FORMAT}): install it with {_install(document)}"
            )
        try:
            if written == 1:
                old = as_kind(document, _Format1, where, newest=1, error=CacheError)
                names = None if old.classes is None else tuple(old.classes)
                kind: OutputKind = Classes(old.n_classes, names)
                history, rankers = History(old.history), _decoded(old.routers)
                return cls(kind, old.encoding, old.round, old.models, history, rankers=rankers, files=source)
            new: _Format2 | _Format3
            fingerprint = None
            if written == 2:
                new = as_kind(document, _Format2, where, newest=FORMAT, error=CacheError)
                history, rankers = History(new.history), _decoded(new.rankers)
            else:
                new = as_kind(document, _Format3, where, newest=FORMAT, error=CacheError)
                before, fingerprint = new.before, new.fingerprint
                name, earlier = (None, 0) if before is None else (before.file, before.records)
                history, rankers = History(new.history, name, earlier, source), {}
            made = cls(
                read_kind(new.kind, where),
                new.encoding.name,
                new.round,
                new.models,
                history=history,
                fingerprint=fingerprint,
                rankers=rankers,
                files=source,
            )
            if new.encoding.version > made.layout.version:
                raise CacheError(
                    f"{where}: the encoding {new.encoding.name!r} is of version {new.encoding.version}, this "
                    f"release reads up to {made.layout.version}: install {_install(document)}"
                )
        except InputError as error:
            raise CacheError(f"{where}: {error}") from error
        return made


class _Format1(Struct, frozen=True):
    n_classes: int
    encoding: str = "float16"
    classes: list[str] | None = None
    round: int = 0
    models: tuple[ModelInfo, ...] = ()
    history: tuple[dict[str, Any], ...] = ()
    routers: dict[str, str] = {}


def _decoded(rankers: dict[str, str]) -> dict[str, bytes]:
    return {digest: base64.b64decode(text) for digest, text in rankers.items()}


class _Element(Struct, frozen=True):
    name: str
    version: int


class _Format2(Struct, frozen=True):
    sparing: str
    kind: dict[str, Any]
    encoding: _Element
    round: int
    models: tuple[ModelInfo, ...]
    history: tuple[dict[str, Any], ...]
    rankers: dict[str, str]


class _Before(Struct, frozen=True):
    file: str
    records: int


class _Format3(Struct, frozen=True):
    sparing: str
    kind: dict[str, Any]
    encoding: _Element
    round: int
    models: tuple[ModelInfo, ...]
    history: tuple[dict[str, Any], ...]
    before: _Before | None
    fingerprint: str | None = None


def _install(document: dict[str, Any]) -> str:
    return f'pip install "sparing>={document.get("sparing", "0.2")}"'


def ranker_digest(data: bytes) -> str:
    """Return the digest of a ranker's file."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
