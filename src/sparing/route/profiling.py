"""What is measured of experts once: what they answer on samples, and how long they take on this machine."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Meta

from sparing.data.samples import Samples, open_samples
from sparing.errors import InputError
from sparing.images import CLEAN, Corruption
from sparing.machine import describe as describe_machine
from sparing.models import Model, load_model
from sparing.models.digests import same_model
from sparing.progress import OnProgress
from sparing.route.experts import Expert, Latency
from sparing.route.filling import fill, missing
from sparing.route.hashing import contents, keys
from sparing.route.labels import check_classes
from sparing.route.latency import CALLS, SECONDS, measure_experts
from sparing.route.loading import load_experts, probe, shared_classes
from sparing.route.outputs import Identity, Memo, describe, short
from sparing.storage.checksums import sealed
from sparing.storage.files import write_text
from sparing.storage.locks import write_lock
from sparing.storage.readers import read_json

FORMAT = 1
BATCH = 32
_SCAN = 4096


@dataclass
class Profile:
    """A profile folder: `profile.json`, and the memo `outputs.lance` of the experts' outputs.

    Opening one runs nothing. What runs missing outputs loads the experts that `profile.json` names: trust the
    folder as you trust them.

    Attributes:
        path: the folder.
        experts: n experts, in the order of the outputs.
        classes: the experts' class names; None when unknown.
        machine: where latency was measured.
        decoding: how long one image takes to decode, once for router and experts; None for data that is not
            encoded images.
    """

    path: Path
    experts: tuple[Expert, ...]
    classes: tuple[str, ...] | None
    machine: str
    decoding: Latency | None
    _models: tuple[Model, ...] | None = field(default=None, repr=False, compare=False)
    _hashes: "WeakKeyDictionary[Samples, bytes]" = field(
        default_factory=WeakKeyDictionary, repr=False, compare=False
    )

    def outputs(
        self, samples: Samples, variant: Corruption = CLEAN, *, progress: OnProgress | None = None
    ) -> npt.NDArray[np.float32]:
        """Return what the experts answer; what is stored is read, what is missing is run and stored.

        Args:
            samples: m samples, of any table: outputs are found by content.
            variant: how they are corrupted.
            progress: called after every chunk that is run.

        Returns:
            Shape (m, n, C), float32 log-probabilities.

        Raises:
            InputError: a sample cannot be read or is not an image and has to be one, the memo is damaged, or
                an expert is no longer what was profiled.
            ModelError: an expert cannot be loaded, or failed; what was finished is kept.
            StorageError: it could not be written; what was finished is kept.
        """
        memo, wanted = self._find(samples, variant, progress)
        return memo.read(memo.positions(wanted))

    def accuracy(
        self, samples: Samples, variant: Corruption = CLEAN, *, progress: OnProgress | None = None
    ) -> npt.NDArray[np.float64] | None:
        """Return each expert's accuracy on the samples that have a label, in bounded memory.

        Args:
            samples: m samples.
            variant: how they are corrupted.
            progress: called after every chunk that is run.

        Returns:
            Shape (n,), shares in [0, 1]; None when no sample has a label.

        Raises:
            InputError: as `outputs`, or a label is not a class of the experts.
            ModelError: as `outputs`.
            StorageError: as `outputs`.
        """
        labels = samples.labels()
        if labels is None or not (labels >= 0).any():
            return None
        memo, wanted = self._find(samples, variant, progress)
        check_classes(samples, labels, memo.identity.n_classes)
        known = np.flatnonzero(labels >= 0)
        positions = memo.positions(wanted)
        right = np.zeros(len(self.experts))
        for start in range(0, len(known), _SCAN):
            rows = known[start : start + _SCAN]
            right += (memo.read(positions[rows]).argmax(axis=2) == labels[rows, None]).sum(axis=0)
        return right / len(known)

    def fill(
        self, samples: Samples, variants: Sequence[Corruption], *, progress: OnProgress | None = None
    ) -> int:
        """Run and store what is missing, without returning it; when nothing is, no expert is loaded.

        Args:
            samples: m samples.
            variants: how they are corrupted.
            progress: called after every chunk that is run.

        Returns:
            How many samples were run, over all variants; equal ones count once.

        Raises:
            InputError: as `outputs`.
            ModelError: as `outputs`.
            StorageError: as `outputs`.
        """
        hashes = self._contents(samples)
        memo = self._memo()
        if memo is not None and not missing(memo, samples, hashes, variants):
            return 0
        models = self._load()
        with self._lock():
            memo = self._memo() or self._create(models, samples)
            return fill(memo, samples, hashes, variants, models, progress=progress)

    def _find(
        self, samples: Samples, variant: Corruption, progress: OnProgress | None
    ) -> tuple[Memo, pa.Array]:
        """Open the memo once it holds every key, and return the keys."""
        wanted = keys(self._contents(samples), samples.ids, variant)
        memo = self._memo()
        if memo is None or (memo.positions(wanted) < 0).any():
            self.fill(samples, [variant], progress=progress)
            memo = self._memo()
        if memo is None or (memo.positions(wanted) < 0).any():
            raise InputError(f"{self.path}: outputs vanished while they were read; profile again")
        return memo, wanted

    def _contents(self, samples: Samples) -> bytes:
        if samples not in self._hashes:
            self._hashes[samples] = contents(samples)
        return self._hashes[samples]

    def _lock(self) -> AbstractContextManager[None]:
        return write_lock(self.path / "lock", "this profile")

    def _memo(self) -> Memo | None:
        memo = Memo.open(self.path / "outputs.lance")
        if memo is not None:
            _refuse_others(self.path, memo.identity.names, memo.identity.digests, self.experts)
        return memo

    def _create(self, models: Sequence[Model], samples: Samples) -> Memo:
        identity = Identity(
            tuple(expert.name for expert in self.experts),
            tuple(expert.digest for expert in self.experts),
            probe(models, samples, CLEAN),
        )
        return Memo.create(self.path / "outputs.lance", identity)

    def _load(self) -> tuple[Model, ...]:
        if self._models is None:
            self._models = tuple(self._load_one(expert) for expert in self.experts)
        return self._models

    def _load_one(self, expert: Expert) -> Model:
        if not expert.target:
            raise InputError(
                f"{self.path}: outputs are missing, and the expert {expert.name!r} was given as an object, "
                "which cannot be loaded again; profile these samples with the object at hand"
            )
        model = load_model(f"{expert.name}={expert.target}", batch_size=expert.batched.batch_size)
        if not same_model(model.digest, expert.digest):
            raise InputError(
                f"the expert {expert.name!r} has changed since it was profiled: {expert.target} is "
                f"{short(model.digest)}, {self.path} was made with {short(expert.digest)}. Bring the old one "
                "back, or profile into another folder"
            )
        return model


def open_profile(path: str | Path) -> Profile:
    """Open a profile folder.

    Args:
        path: the folder.

    Returns:
        The profile.

    Raises:
        InputError: no profile is there, it is damaged, or of another version.
    """
    path = Path(path)
    what = path / "profile.json"
    if not what.is_file():
        raise InputError(
            f"{path}: no profile here (profile.json is missing); `sparing route profile` makes one"
        )
    opened = _read(path)
    opened._memo()
    return opened


def profile(
    experts: Mapping[str, str] | Sequence[Model],
    samples: Any,
    out: str | Path,
    *,
    variants: Sequence[Corruption] = (CLEAN,),
    costs: Mapping[str, tuple[float, str]] | None = None,
    batch_size: int = BATCH,
    repeats: int = CALLS,
    seconds: float = SECONDS,
    progress: OnProgress | None = None,
) -> Profile:
    """Run experts on samples once, and measure how long they take; killed, the same call resumes.

    Latency is that of a call with the preparation of its samples, but without the decoding of images where
    an expert takes decoded ones: router and expert share that.

    Args:
        experts: at least two: targets by name (see `load_model`), or models.
        samples: what `open_samples` takes.
        out: the folder; one that holds the same experts is resumed.
        variants: how the samples are corrupted, for their outputs; latency is measured on clean ones.
        costs: stated cost per sample and its unit, by name, for targets; for all of them or none.
        batch_size: samples per batch, for targets; a graph with a fixed batch keeps its own, and so does a
            model.
        repeats: how many calls of one sample are measured; of batches a quarter, at least 10 of either.
        seconds: when to stop measuring one expert in one mode before that.
        progress: called after every chunk that is run.

    Returns:
        The profile.

    Raises:
        InputError: fewer than two experts, two of one name, experts with other classes, or that replay stored
            outputs; costs stated for some only; bad samples; or a folder with the outputs of others.
        ModelError: an expert cannot be loaded, or failed; what was finished is kept.
        StorageError: it could not be written; what was finished is kept.
    """
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a folder for the profile")
    models, targets = load_experts(experts, costs or {}, batch_size)
    never = Latency(1, 0.0, 0.0, 0)
    made = Profile(
        path=path,
        experts=tuple(
            Expert(
                name=m.name,
                target=target,
                digest=m.digest,
                single=never,
                batched=never,
                cost=m.cost,
                unit=m.unit,
            )
            for m, target in zip(models, targets, strict=True)
        ),
        classes=shared_classes(models),
        machine=describe_machine(),
        decoding=None,
        _models=models,
    )
    _refuse_older(made)
    opened = open_samples(samples)
    for variant in dict.fromkeys((CLEAN, *variants[-1:])):
        n_classes = probe(models, opened, variant)
    labels = opened.labels()
    if labels is not None:
        check_classes(opened, labels, n_classes)
    made.fill(opened, variants, progress=progress)
    return _measured(made, models, opened, repeats, seconds)


def _refuse_older(made: Profile) -> None:
    made._memo()
    if (made.path / "profile.json").exists():
        try:
            older = _read(made.path).experts
        except InputError:
            return  # what cannot be read is written again
        names = [expert.name for expert in older]
        _refuse_others(made.path, names, [expert.digest for expert in older], made.experts)


def _refuse_others(
    path: Path, names: Sequence[str], digests: Sequence[str], experts: Sequence[Expert]
) -> None:
    mine = [(expert.name, expert.digest) for expert in experts]
    if tuple(names) != tuple(name for name, _ in mine) or not all(
        same_model(digest, expert.digest) for digest, expert in zip(digests, experts, strict=True)
    ):
        raise InputError(
            f"{path} holds the outputs of {describe(names, digests)}, not those of "
            f"{describe(*zip(*mine, strict=True))}: choose another folder, or delete that one"
        )


def _measured(
    made: Profile, models: Sequence[Model], samples: Samples, repeats: int, seconds: float
) -> Profile:
    """Measure latency, and write `profile.json`."""
    single, batched, decoding = measure_experts(models, samples, calls=repeats, seconds=seconds)
    experts = tuple(
        replace(expert, single=one, batched=many)
        for expert, one, many in zip(made.experts, single, batched, strict=True)
    )
    result = replace(made, experts=experts, decoding=decoding)
    file = _File(result.machine, result.decoding, result.classes, experts)
    document = sealed({"format": FORMAT, **asdict(file)})
    write_text(result.path / "profile.json", json.dumps(document, indent=1) + "\n")
    return result


@dataclass(frozen=True)
class _File:
    """What `profile.json` holds."""

    machine: str
    decoding: Latency | None
    classes: tuple[str, ...] | None
    experts: Annotated[tuple[Expert, ...], Meta(min_length=2)]


def _read(path: Path) -> Profile:
    read = read_json(path / "profile.json", _File, newest=FORMAT)
    return Profile(
        path=path,
        experts=read.experts,
        classes=read.classes,
        machine=read.machine,
        decoding=read.decoding,
    )
