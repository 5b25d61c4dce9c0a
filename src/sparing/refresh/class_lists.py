"""Models that know other classes than the cache: one list by name, over which all outputs are laid out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.cache import Cache, Metadata
from sparing.errors import InputError
from sparing.models import Model
from sparing.outputs import Classes
from sparing.outputs.classes import check_names, joined_names, renamed

Floats = npt.NDArray[np.float32]


def wanted_names(
    metadata: Metadata, models: Sequence[Model], rename: Mapping[str, str]
) -> tuple[str, ...] | None:
    """Return the class names that a cache needs for some models.

    Args:
        metadata: of the cache.
        models: the models; those without class names are taken to share the cache's.
        rename: new names of classes by old ones, of the cache and of models.

    Returns:
        The names: the cache's first, in their order; None where it knows no names, and none are needed.

    Raises:
        InputError: names are needed and not known, or cannot be joined; see `joined_names`.
    """
    kind = metadata.kind
    if not isinstance(kind, Classes):
        if rename:
            raise InputError(f"the cache holds {kind.name}: there are no classes to rename")
        return None
    lists = {model.name: names for model in models if (names := known_names(metadata, model)) is not None}
    for name, names in lists.items():
        check_names(names, f"model {name!r}")
    if kind.classes is None:
        other = next((name for name, names in lists.items() if len(names) != kind.n_classes), None)
        if rename or other is not None:
            what = "to rename them" if other is None else f"since model {other!r} has {len(lists[other])}"
            raise InputError(
                f"the cache has {kind.n_classes} classes without names, which are needed {what}: "
                "`sparing cache classes CACHE --names FILE` names them"
            )
        return None
    return joined_names(kind.classes, list(lists.values()), rename)


def known_names(metadata: Metadata, model: Model) -> tuple[str, ...] | None:
    """Return the class names of a model: its own, or those that the cache has noted of it."""
    if model.classes is not None:
        return model.classes
    index = metadata.model_index(model.name)
    if index is None or metadata.models[index].digest != model.digest:
        return None
    return metadata.models[index].classes


def laid_out(
    metadata: Metadata, models: Sequence[Model], names: Sequence[str] | None, rename: Mapping[str, str]
) -> list[Model]:
    """Return models whose outputs are over the classes of a cache, with zero mass on those they do not know.

    Args:
        metadata: of the cache.
        models: the models.
        names: what `wanted_names` returned; with None, the models stay as they are.
        rename: as for `wanted_names`.
    """
    if names is None:
        return list(models)
    return [_laid_out(model, known_names(metadata, model), tuple(names), rename) for model in models]


def _laid_out(
    model: Model, own: tuple[str, ...] | None, names: tuple[str, ...], rename: Mapping[str, str]
) -> Model:
    if own is None:
        return model
    known = renamed(own, rename, f"model {model.name!r}")
    if known == names:
        return replace(model, classes=names, knows=known)
    place = {name: at for at, name in enumerate(names)}
    at = np.array([place[name] for name in known], dtype=np.int64)
    inner = replace(model, classes=own)
    return replace(model, function=_LaidOut(inner, at, len(names)), logits=False, classes=names, knows=known)


@dataclass(frozen=True)
class _LaidOut:
    """Runs a model, and puts its D classes at their places (D,) among all C."""

    model: Model
    place: npt.NDArray[np.int64]
    n_classes: int

    def __call__(self, ids: list[object], values: list[Any]) -> Floats:
        probs = self.model(ids, values if self.model.needs_samples else None)
        result = np.zeros((len(probs), self.n_classes), dtype=np.float32)
        result[:, self.place] = probs
        return result


def joined_classes(cache: Cache, models: Sequence[Model]) -> tuple[tuple[str, ...] | None, list[Model]]:
    """Return the class names that a cache needs for some models, and the models laid out over them.

    The cache itself is not changed: see `Cache.name_classes`.
    """
    names = wanted_names(cache.metadata, models, {})
    return names, laid_out(cache.metadata, models, names, {})


def needs_names(cache: Cache, names: tuple[str, ...] | None) -> bool:
    """Return whether the cache has other class names than it needs."""
    kind = cache.metadata.kind
    return names is not None and isinstance(kind, Classes) and kind.classes != names
