"""Running a model over samples that the cache does not hold yet: the first fill, and new samples later."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.account import Account
from sparing.cache import Cache, ModelInfo
from sparing.cache.encodings import DEFAULT, parse_encoding
from sparing.cache.store import Chunk as Filled
from sparing.data.fingerprints import VALUE, Fingerprints
from sparing.data.samples import Samples, open_samples
from sparing.data.tables import as_labels
from sparing.errors import CacheError, CacheLockedError, InputError
from sparing.models import Model
from sparing.outputs import Classes
from sparing.outputs.classes import check_names
from sparing.progress import OnProgress
from sparing.refresh.class_lists import joined_classes, needs_names
from sparing.refresh.failures import FailureLimit, OnFailures, Tally, tell_failures
from sparing.refresh.recorded import as_recorded
from sparing.refresh.records import FillRecord
from sparing.refresh.round import fingerprints_of
from sparing.refresh.running import chunk_rows_for, drop_changed, run_order
from sparing.refresh.staging import Chunk, Failed, Staging
from sparing.storage.locks import write_lock


def fill(
    path: str | Path,
    model: Model,
    samples: Any,
    *,
    encoding: str | None = None,
    classes: Sequence[str] | None = None,
    fingerprint: str | None = None,
    max_failures: int | str | None = None,
    on_progress: OnProgress | None = None,
    on_failures: OnFailures | None = None,
) -> Cache:
    """Make a cache by running a model over all samples: round 0.

    After a kill, the same call continues where it stopped.

    Args:
        path: a folder that does not exist yet; unfinished work is kept in `PATH.filling` beside it.
        model: what to run.
        samples: whatever `open_samples` takes; its labels, if it has any, are kept.
        encoding: how distributions are stored; see `sparing.cache.encodings`. By default float16.
        classes: the class names; by default the model's own.
        fingerprint: keep with every row a fingerprint of its sample, so that a refresh finds those that have
            changed: "value", of the value itself, which a refresh then reads of all samples; or a column of
            the samples that changes with it, such as an ETag.
        max_failures: how many samples may fail; see `RefreshOptions`.
        on_progress: called after every chunk.
        on_failures: called at the end if samples failed, which the cache then lacks, with columns id, model
            and reason; a warning by default.

    Returns:
        The cache.

    Raises:
        CacheError: something is at the path already, another process is filling it, or a full disk.
        InputError: samples are unreadable, class names do not match, or an unknown encoding.
        ModelError: the model failed on too many samples, or on all; what was computed is kept.
    """
    path = Path(path)
    if path.exists():
        _drop_left(path)
        raise CacheError(f"{path} exists already: choose another path, or delete it first")
    if classes is not None:
        check_names(classes, "classes")
    if model.kind is None:
        # How many classes there are is not known yet, but a typing error is.
        parse_encoding(encoding or DEFAULT, 1 << 16)
    opened = open_samples(samples)
    prints = None if fingerprint is None else Fingerprints(opened, fingerprint)
    if model.classes is not None and (labels := opened.labels()) is not None:
        check_labels(labels, opened, len(model.classes))
    beside = path.with_name(f"{path.name}.filling")
    with write_lock(beside.with_name(f"{path.name}.lock"), "this cache", CacheLockedError):
        staging = Staging(beside)
        model = _as_staged(model, staging)
        _run_all(
            staging,
            model,
            opened,
            np.arange(len(opened)),
            base="",
            max_failures=max_failures,
            on_progress=on_progress,
        )
        failed = staging.failures([model.name])
        cache = Cache.create(
            path,
            _outputs(staging, opened, fingerprint, prints),
            _info(model, staging),
            fingerprint=fingerprint,
            kind=model.kind,
            encoding=encoding,
            classes=model.classes if classes is None else classes,
            record={"op": "fill", "account": _account(model, staging)},
        )
        staging.clear()
    tell_failures(failed, on_failures)
    return cache


def _drop_left(path: Path) -> None:
    """Drop what a fill has staged that was killed after it had made the cache."""
    staging = Staging(path.with_name(f"{path.name}.filling"))
    if not staging.folder.exists():
        return
    with (
        suppress(CacheError),
        write_lock(path.with_name(f"{path.name}.lock"), "this cache", CacheLockedError),
    ):
        staged, metadata = staging.record(FillRecord), Cache.open(path).metadata
        made = metadata.history[0]
        same = staged is None or (metadata.models[0].digest, made["rows"]) == (
            staged.model,
            staging.rows_done(),
        )
        if made["op"] == "fill" and same:
            staging.clear()


def append_samples(
    path: str | Path,
    model: Model,
    samples: Any,
    *,
    max_failures: int | str | None = None,
    on_progress: OnProgress | None = None,
    on_failures: OnFailures | None = None,
) -> int:
    """Run a model over those samples that a cache does not hold yet, and add them.

    Args:
        path: the cache.
        model: what to run.
        samples: whatever `open_samples` takes; samples that the cache holds are skipped.
        max_failures: how many samples may fail; see `RefreshOptions`.
        on_progress: called after every chunk.
        on_failures: called at the end if samples failed, which are not added; see `fill`.

    Returns:
        The number of rows added.

    Raises:
        InputError: nothing is new, or samples are unreadable or of another id type.
        ModelError: the model failed on too many samples, or on all; what was computed is kept, and the same
            call resumes.
        CacheError: not a cache, another process writes to it, or a full disk.
    """
    opened = open_samples(samples)
    with Cache.open(path).lock():
        cache = Cache.open(path)
        staging = Staging(cache.work_dir / "append")
        model = _as_staged(model, staging, cache)
        names, (model,) = joined_classes(cache, [model])
        if names is not None and needs_names(cache, names):
            cache.name_classes(names)
        cache.metadata.check_model(model.name, model.classes, model.kind)
        cache.as_ids(opened.ids)  # of the same type, or an error
        if (labels := opened.labels()) is not None:
            kind = cache.metadata.kind
            check_labels(labels, opened, kind.n_classes if isinstance(kind, Classes) else None)
        fresh = pc.invert(pc.is_in(opened.ids, value_set=cache.ids())).to_numpy(False)
        if not fresh.any():
            staging.clear()  # left by a kill after the commit
            raise InputError(f"all {len(opened)} samples are in the cache already: nothing to append")
        _run_all(
            staging,
            model,
            opened,
            np.flatnonzero(fresh),
            base=f"version {cache.version}",
            max_failures=max_failures,
            on_progress=on_progress,
        )
        failed = staging.failures([model.name])
        prints = fingerprints_of(cache, opened)
        outputs = _outputs(staging, opened, cache.metadata.fingerprint, prints)
        added = cache.append(outputs, _info(model, staging))
        staging.clear()
    tell_failures(failed, on_failures)
    return added


def _as_staged(model: Model, staging: Staging, cache: Cache | None = None) -> Model:
    staged = staging.record(FillRecord)
    return as_recorded([model], cache, [] if staged is None else [staged.model])[0]


def _run_all(
    staging: Staging,
    model: Model,
    samples: Samples,
    positions: npt.NDArray[np.int64],
    *,
    base: str,
    max_failures: int | str | None,
    on_progress: OnProgress | None,
) -> None:
    wanted = FillRecord(
        chunk_rows=chunk_rows_for(len(positions), [model]),
        model=model.digest,
        rows=len(positions),
        first=str(samples.ids[0]),
        base=base,
        samples=samples.identity,
    )
    staged = staging.record(FillRecord)
    same = {"chunk_rows": wanted.chunk_rows, "samples": wanted.samples}
    if staged is not None and msgspec.structs.replace(staged, **same) == wanted:
        if not samples.known_as(staged.samples):
            drop_changed(staging, samples)
    else:
        order = pa.table(
            {
                "id": samples.ids.take(pa.array(positions)),
                "candidate": np.zeros(len(positions), dtype=np.int16),
            }
        )
        staged = wanted
        staging.begin(staged, order)
    staging.retry()
    tally = Tally(FailureLimit.parse(max_failures), done=staging.rows_done())
    run_order(staging, [model], samples, chunk_rows=staged.chunk_rows, tally=tally, on_progress=on_progress)


def _outputs(
    staging: Staging, samples: Samples, fingerprint: str | None, prints: Fingerprints | None
) -> Iterator[Filled]:
    order = staging.order()
    labels = samples.labels()
    if labels is not None:
        kind = next(staging.chunks()).kind
        check_labels(labels, samples, kind.n_classes if isinstance(kind, Classes) else None)
    for chunk in staging.chunks():
        ids = order["id"].slice(chunk.start, len(chunk)).combine_chunks()
        mine = None if labels is None else labels[samples.index_of(ids)]
        if prints is None:
            yield ids, chunk.outputs, mine
        elif fingerprint == VALUE and chunk.inputs is not None and chunk.inputs.all():
            yield ids, chunk.outputs, mine, chunk.inputs
        else:
            yield ids, chunk.outputs, mine, prints.of(ids)


def check_labels(labels: npt.NDArray[np.int64], samples: Samples, classes: int | None) -> None:
    """Refuse labels that a cache cannot hold.

    Args:
        labels: shape (n,), -1 where unknown.
        samples: whose labels they are.
        classes: how many classes there are; None where outputs are not distributions.

    Raises:
        InputError: a label is out of range; the message names its sample.
    """
    as_labels(labels, samples.ids, what=samples.what, classes=classes or 1 << 31)


def _info(model: Model, staging: Staging) -> ModelInfo:
    if model.cost is not None:
        return ModelInfo(model.name, model.digest, model.cost, model.unit, classes=model.knows)
    account = _account(model, staging)
    each = account["seconds"]["model"] / max(account["forwards"][model.name], 1)
    return ModelInfo(model.name, model.digest, each, classes=model.knows)


def _account(model: Model, staging: Staging) -> dict[str, Any]:
    account, failed = Account(), staging.failed()
    account.reused_rows = sum(sum(chunk.reused.values()) for chunk in staging.chunks())
    account.forwards[model.name] = staging.rows_done() - account.reused_rows
    account.failed_rows = sum(len(part.rows) for part in failed)
    parts: list[Chunk | Failed] = [*staging.chunks(), *failed]
    for part in parts:
        account.add_seconds(part.seconds)
        account.waste(model, part.wasted)
    return account.to_dict()
