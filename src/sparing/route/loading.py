"""Loading experts, and seeing that they fit together before anything is run for long."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sparing.data.samples import Samples
from sparing.errors import InputError, ModelError
from sparing.images import Corruption
from sparing.models import Model, load_model
from sparing.route.labels import listed
from sparing.route.showing import show


def load_experts(
    experts: Mapping[str, str] | Sequence[Model], costs: Mapping[str, tuple[float, str]], batch_size: int
) -> tuple[tuple[Model, ...], tuple[str, ...]]:
    """Load experts, or take them as they are.

    Args:
        experts: targets by name (see `load_model`), or models.
        costs: stated cost per sample and its unit, by name, for targets.
        batch_size: samples per batch, for targets.

    Returns:
        The models, and the target of each, with absolute paths; "" for a model.

    Raises:
        InputError: fewer than two, two of one name, one that replays stored outputs, or costs that are stated
            for some only, in several units, or for others.
        ModelError: one cannot be loaded.
    """
    names = list(experts) if isinstance(experts, Mapping) else [model.name for model in experts]
    for name in costs:
        if name not in names:
            raise InputError(f"a cost is stated for {name!r}, but the experts are {', '.join(names)}")
    if len(names) < 2:
        raise InputError(
            f"routing takes at least two experts, got {len(names)}: {', '.join(names) or 'none'}"
        )
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two experts are called {name!r}; name them apart")
        if not name or name != name.strip() or "=" in name:
            raise InputError(f"{name!r} cannot be the name of an expert: remove '=' and spaces around it")
    models, targets = [], []
    if isinstance(experts, Mapping):
        for name, target in experts.items():
            cost, unit = costs.get(name, (None, None))
            models.append(load_model(f"{name}={target}", cost=cost, unit=unit, batch_size=batch_size))
            targets.append(_absolute(target.strip()))
    else:
        if costs:
            raise InputError("costs are stated for targets; a model carries its own")
        models, targets = list(experts), [""] * len(experts)
    for model in models:
        if not model.needs_samples:
            raise InputError(
                f"the expert {model.name!r} replays stored outputs: it cannot answer fresh inputs, and "
                "has no latency to measure; use the model itself (`sparing bounds` takes stored outcomes)"
            )
    stated = {model.name: model.unit for model in models if model.cost is not None}
    if stated and (len(stated) < len(models) or len(set(stated.values())) > 1):
        raise InputError(
            "costs are stated as "
            + ", ".join(f"{name}: {stated.get(name, 'none')}" for name in names)
            + "; state them for all experts in one unit, or for none"
        )
    return tuple(models), tuple(targets)


def _absolute(target: str) -> str:
    where, colon, name = target.rpartition(":")
    if colon and where.endswith(".py"):
        return f"{Path(where).absolute()}:{name}"
    return str(Path(target).absolute()) if Path(target).suffix.lower() == ".onnx" else target


def shared_classes(models: Sequence[Model]) -> tuple[str, ...] | None:
    """Return the class names that experts share; None when none of them names its classes.

    Raises:
        InputError: two experts name different classes.
    """
    named = [model for model in models if model.classes is not None]
    for model in named[1:]:
        if model.classes != named[0].classes:
            raise InputError(
                f"experts must share their classes: {named[0].name!r} has {listed(named[0].classes)}, "
                f"{model.name!r} has {listed(model.classes)}"
            )
    return named[0].classes if named else None


def probe(models: Sequence[Model], samples: Samples, variant: Corruption) -> int:
    """Run every expert on the first sample: what does not fit shows before hours are spent on the others.

    Returns:
        The number of classes.

    Raises:
        InputError: the sample cannot be read, or is not an image and has to be one.
        ModelError: an expert failed, or experts return different numbers of classes.
    """
    counts: dict[str, int] = {}
    for shown in show(samples.ids[:1], samples.fetch(np.zeros(1, dtype=np.int64)), models, variant):
        for model in models:
            counts[model.name] = model.log_probs(shown.ids, shown.to(model)).shape[1]
    if len(set(counts.values())) > 1:
        raise ModelError(
            "experts must share their classes, but they return "
            + ", ".join(f"{count} ({name})" for name, count in counts.items())
        )
    return next(iter(counts.values()))
