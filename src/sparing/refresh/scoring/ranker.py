"""What `fit` learned: every learned scorer, and what held-out rows say of them, in one file.

The file is a NumPy archive without any pickle: `header` is JSON, the other arrays are named by the element
that they belong to ("router/0_weights_0", "holdout/cached"). Each element carries its name and its version.

To change what one scorer stores: raise its `version`, and let its `from_arrays` read the earlier one.
To change the format of the file:
1. raise `FORMAT`;
2. write a module `old/format_N.py` (N: the format before) whose `upgraded` turns its document and arrays
   into those of the next format;
3. add it to `OLD`;
4. keep a file of the format before in the tests, and test that it gives the same benefits.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from sparing.cache.encodings import Encoded
from sparing.errors import InputError
from sparing.refresh.scoring import SCORERS
from sparing.refresh.scoring.holdout import Holdout, gather_holdout
from sparing.refresh.scoring.old import format_1
from sparing.refresh.scoring.router import InputForm, Router
from sparing.refresh.scoring.scorer import Answers, Floats, Pairs, Scorer, ScoringRows
from sparing.storage.files import write_bytes
from sparing.storage.readers import as_kind
from sparing.version import __version__

FORMAT = 2
HOLDOUT_VERSION = 1

_Contents = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]

OLD: Mapping[int, Callable[[dict[str, Any], dict[str, npt.NDArray[Any]]], _Contents]] = {1: format_1.upgraded}
"""By format: what turns the document and the arrays of a file into those of the next format."""


@dataclass(frozen=True)
class Candidate:
    """What a ranker knows of one candidate.

    Attributes:
        name: its name.
        digest: the digest of the model that the ranker was fitted to; None when only its outputs were known.
        seconds: measured seconds of one forward; None when its outputs came from elsewhere.
    """

    name: str
    digest: str | None = None
    seconds: float | None = None


class _Element(Struct, frozen=True):
    name: str
    version: int


class _Holdout(Struct, frozen=True):
    version: int
    names: tuple[str, ...]
    columns: tuple[str, ...]


class _Header(Struct, frozen=True):
    type: Literal["ranker"]
    sparing: str
    n_classes: Annotated[int, Meta(ge=2)]
    candidates: Annotated[tuple[Candidate, ...], Meta(min_length=1)]
    scorers: tuple[_Element, ...]
    holdout: _Holdout | None
    preferred: str | None


@dataclass(frozen=True)
class Ranker:
    """Learned scorers, by name, for some candidates; the last one is the target that they were fitted for.

    Attributes:
        n_classes: length C of the distributions that they read.
        candidates: the n candidates.
        scorers: the scorers by name.
        holdout: what the rows held out of the fit say of them; None when none were.
        preferred: the scorer that a refresh with this ranker takes when none is named; None for "router".
        source: the file of format 1 that it was read from, as caches of its time keep it; None otherwise, and
            in what `dataclasses.replace` makes of it.
    """

    n_classes: int
    candidates: tuple[Candidate, ...]
    scorers: Mapping[str, Scorer]
    holdout: Holdout | None = field(default=None, compare=False)
    preferred: str | None = None
    source: bytes | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def names(self) -> list[str]:
        """Names of the candidates."""
        return [candidate.name for candidate in self.candidates]

    def score(self, scorer: str, rows: ScoringRows) -> Floats:
        """Score rows by one of its scorers.

        Args:
            scorer: its name.
            rows: m rows.

        Returns:
            Shape (m, n), in the order of `candidates`.

        Raises:
            InputError: distributions over another number of classes.
        """
        if rows.n_classes != self.n_classes:
            raise InputError(f"the ranker reads {self.n_classes} classes, the cache has {rows.n_classes}")
        n = len(self.candidates)
        return self.scorers[scorer].benefits(replace(rows, candidates=n, target=n - 1))

    def benefits(self, distributions: Encoded | Floats) -> Floats:
        """Predict the entropy decrease that each candidate would bring, by PURE's router.

        Args:
            distributions: shape (m, C), or m rows as a cache stores them.

        Returns:
            Shape (m, n), nats, one column per candidate, in the order of `candidates`.

        Raises:
            InputError: distributions over another number of classes.
        """
        ties = np.zeros(len(distributions), dtype=np.uint64)
        return self.score("router", ScoringRows(outputs=distributions, ties=ties))

    def kept(self, scorer: str) -> bytes:
        """Return the file that a cache keeps of a round: enough to score the same way again."""
        if self.source is not None:
            return self.source
        alone = {scorer: self.scorers[scorer]}
        return replace(self, scorers=alone, holdout=None, preferred=None).to_bytes()

    def to_bytes(self) -> bytes:
        """Write the ranker as a NumPy archive, without any pickle."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, scorer in self.scorers.items():
            arrays.update({f"{name}/{key}": values for key, values in scorer.to_arrays().items()})
        held = None
        if self.holdout is not None:
            columns = self.holdout.benefits
            held = {"version": HOLDOUT_VERSION, "names": self.holdout.names, "columns": list(columns)}
            arrays.update({f"holdout/benefits/{name}": values for name, values in columns.items()})
            for key in ("cached", "outputs", "labels"):
                arrays[f"holdout/{key}"] = getattr(self.holdout, key)
        header = {
            "type": "ranker",
            "format": FORMAT,
            "sparing": __version__,
            "n_classes": self.n_classes,
            "candidates": [
                {"name": c.name, "digest": c.digest, "seconds": c.seconds} for c in self.candidates
            ],
            "scorers": [{"name": name, "version": s.version} for name, s in self.scorers.items()],
            "holdout": held,
            "preferred": self.preferred,
        }
        text = np.frombuffer(json.dumps(header).encode("utf-8"), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, header=text, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "the ranker") -> "Ranker":
        """Read what `to_bytes` wrote, now or in an earlier format; nothing in it is unpickled.

        Raises:
            InputError: not a ranker, or an element that only a newer release reads.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            document = json.loads(arrays.pop("header").tobytes())
            written = document["format"]
            if written > FORMAT:
                raise InputError(_unread(where, f"a ranker of format {written}", document.get("sparing")))
            for format_ in range(written, FORMAT):
                document, arrays = OLD[format_](document, arrays)
            header = as_kind(document, _Header, where, newest=FORMAT)
            made = cls(
                n_classes=header.n_classes,
                candidates=header.candidates,
                scorers={element.name: _scorer(element, arrays, header, where) for element in header.scorers},
                holdout=_held_out(arrays, header, where),
                preferred=header.preferred,
            )
            if written == 1:
                object.__setattr__(made, "source", data)
            made.check()
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{where} is damaged, or is not a ranker file: {type(error).__name__}: {error}"
            ) from error
        return made

    def check(self) -> None:
        """Score one row by every scorer: arrays that do not fit together fail here, not in a round.

        Raises:
            ValueError: benefits of a wrong shape.
        """
        even = np.full((1, self.n_classes), 1 / self.n_classes, dtype=np.float32)
        row = ScoringRows(outputs=even, ties=np.zeros(1, dtype=np.uint64))
        for name in self.scorers:
            shape = self.score(name, row).shape
            if shape != (1, len(self.candidates)):
                raise ValueError(f"the scorer {name!r} gives benefits of shape {shape}")

    def save(self, path: str | Path) -> None:
        """Write the ranker to a file, whole or not at all.

        Raises:
            StorageError: it could not be written.
        """
        write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> "Ranker":
        """Read a ranker from a file.

        Raises:
            InputError: no such file, or not a ranker.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no ranker at {path}: make one with `sparing fit --out {path}`")
        return cls.from_bytes(path.read_bytes(), str(path))


def train_ranker(
    old: Floats,
    new: Sequence[Floats],
    names: Sequence[str],
    digests: Sequence[str | None],
    *,
    form: InputForm = "sorted",
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    seed: int = 0,
) -> Ranker:
    """Fit PURE's router alone, without held-out rows: one regressor per candidate (PURE, 3.2 and B.3).

    Args:
        old: shape (m, C), cached distributions.
        new: n arrays of shape (m, C), each candidate's distributions for the same samples.
        names: n names.
        digests: n digests; None where only outputs are known.
        form: what the router reads; see `sparing.refresh.scoring.router.Router.fit`.
        hidden: sizes of the hidden layers; 64 as in appendix B.3.
        epochs: passes over the rows.
        seed: fixes the start and the shuffling.

    Returns:
        The ranker.

    Raises:
        InputError: no rows, or shapes that do not match.
    """
    rows = ScoringRows(
        outputs=old, ties=np.zeros(len(old), np.uint64), candidates=len(new), target=len(new) - 1
    )
    pairs = Pairs(rows, Answers(new, np.full(len(old), -1, dtype=np.int64)))
    _check_pairs(pairs, names)
    router = Router.fit(pairs, seed, form=form, hidden=hidden, epochs=epochs)
    return _ranker(pairs, names, digests, {"router": router})


def fit_ranker(
    pairs: Pairs,
    names: Sequence[str],
    digests: Sequence[str | None],
    *,
    form: InputForm = "sorted",
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    holdout: float = 0.2,
    seed: int = 0,
) -> Ranker:
    """Fit every scorer that learns, and judge a first fit of each on rows held out of it.

    Args:
        pairs: m rows; the last candidate is the target.
        names: n names.
        digests: n digests; None where only outputs are known.
        form: what PURE's router reads.
        hidden: sizes of its hidden layers.
        epochs: its passes over the rows.
        holdout: share of the rows held out; the scorers of the ranker are fitted on all rows.
        seed: fixes the split and the fits.

    Raises:
        InputError: too few rows, shapes that do not match, or a share outside [0, 1).
    """
    if not 0 <= holdout < 1:
        raise InputError(f"the share of held-out rows must lie in [0, 1), got {holdout}")
    _check_pairs(pairs, names)

    def train(rows: npt.NDArray[np.int64]) -> dict[str, Scorer]:
        known = pairs.take(np.sort(rows))
        made: dict[str, Scorer] = {}
        for name, scorer in SCORERS.items():
            if scorer is Router:
                made[name] = Router.fit(known, seed, form=form, hidden=hidden, epochs=epochs)
            elif scorer.learns and not scorer.needs:
                made[name] = scorer.fit(known, seed)
        return made

    shuffled = np.random.default_rng(seed).permutation(len(pairs))
    held = shuffled[: int(holdout * len(pairs))]
    ranker = _ranker(pairs, names, digests, train(shuffled))
    if len(held) < 2 or len(pairs) - len(held) < 2:
        return ranker
    seen = gather_holdout(names, pairs.take(held), train(shuffled[len(held) :]))
    return replace(ranker, holdout=seen)


def _check_pairs(pairs: Pairs, names: Sequence[str]) -> None:
    if len(pairs) < 2:
        raise InputError(f"a ranker cannot be fitted on {len(pairs)} rows: give it a few hundred at least")
    for name, outputs in zip(names, pairs.new, strict=True):
        if outputs.shape != pairs.old.shape:
            raise InputError(
                f"candidate {name!r} has outputs of shape {outputs.shape}, the cache {pairs.old.shape}: "
                "old and new models must share their classes"
            )


def _ranker(
    pairs: Pairs, names: Sequence[str], digests: Sequence[str | None], scorers: Mapping[str, Scorer]
) -> Ranker:
    candidates = tuple(Candidate(name, digest) for name, digest in zip(names, digests, strict=True))
    return Ranker(pairs.rows.n_classes, candidates, scorers)


def _unread(where: str, what: str, version: object) -> str:
    wanted = f'pip install "sparing>={version}"' if version else "pip install --upgrade sparing"
    return f"{where} holds {what}, which this release does not read: {wanted}"


def _scorer(element: _Element, arrays: Mapping[str, npt.NDArray[Any]], header: _Header, where: str) -> Scorer:
    scorer = SCORERS.get(element.name)
    if scorer is None or element.version > scorer.version:
        what = f"the scorer {element.name!r}, version {element.version}"
        raise InputError(_unread(where, what, header.sparing))
    prefix = f"{element.name}/"
    return scorer.from_arrays(
        {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    )


def _held_out(arrays: Mapping[str, npt.NDArray[Any]], header: _Header, where: str) -> Holdout | None:
    held = header.holdout
    if held is None:
        return None
    if held.version > HOLDOUT_VERSION:
        raise InputError(_unread(where, f"held-out rows, version {held.version}", header.sparing))
    return Holdout(
        names=held.names,
        benefits={name: arrays[f"holdout/benefits/{name}"] for name in held.columns},
        cached=arrays["holdout/cached"],
        outputs=arrays["holdout/outputs"],
        labels=arrays["holdout/labels"],
    )
