"""Functions as earlier releases recorded them: by their name alone, without their source."""

from collections.abc import Container, Sequence
from dataclasses import replace

from sparing.cache import Cache
from sparing.cache.known import load_known
from sparing.models import Model
from sparing.models.digests import former_digest


def as_recorded(
    models: Sequence[Model], cache: Cache | None, digests: Container[str | None] = ()
) -> list[Model]:
    """Return models by the digests under which earlier releases recorded them, where they did.

    What a cache, its staged work, what `fit` kept or a ranker knows by name stays the same model. Whether its
    source has changed since cannot be told.

    Args:
        models: the models as they are now.
        cache: which may hold rows of them; None when there is none yet.
        digests: other digests that were recorded.
    """
    return [_as_recorded(model, cache, digests) for model in models]


def _as_recorded(model: Model, cache: Cache | None, digests: Container[str | None]) -> Model:
    former = former_digest(model.digest)
    if former is None:
        return model
    recorded = former in digests
    if not recorded and cache is not None:
        index = cache.metadata.model_index(model.name)
        recorded = (
            cache.metadata.models[index].digest == former
            if index is not None
            else load_known(cache.work_dir, cache.metadata, model.name, former) is not None
        )
    return replace(model, digest=former) if recorded else model
