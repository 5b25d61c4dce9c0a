"""PURE's router: one small regressor per candidate, from the cached distribution to the entropy decrease."""

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings import Encoded, encoded
from sparing.cache.encodings.scoring import largest, multiply
from sparing.cache.metadata import ranker_digest
from sparing.errors import InputError
from sparing.numerics.distributions import entropy
from sparing.refresh.scoring.change import ChangePredictor
from sparing.refresh.scoring.holdout import Holdout
from sparing.refresh.scoring.scorers import Scorer
from sparing.storage.files import write_bytes

FORMAT = 1
SORTED_WIDTH = 32

Floats = npt.NDArray[np.float32]
Layers = tuple[tuple[Floats, Floats], ...]
InputForm = Literal["sorted", "plain"]


@dataclass(frozen=True)
class Candidate:
    """What a ranker knows of one candidate.

    Attributes:
        name: its name.
        digest: the digest of the model that the ranker was fitted to; None when only its outputs were known.
        layers: weights (inputs, outputs) and biases of each layer.
        seconds: measured seconds of one forward; None when its outputs came from elsewhere.
    """

    name: str
    digest: str | None
    layers: Layers
    seconds: float | None = None


@dataclass(frozen=True)
class Ranker:
    """Predicts each candidate's entropy decrease from the cached distribution (PURE, Equations 4 and 5).

    Attributes:
        n_classes: length C of the distributions it reads.
        form: "sorted" reads the largest entries in descending order, "plain" the vector as it stands.
        width: how many entries it reads.
        candidates: one regressor per candidate.
        holdout: what the rows held out of the fit say of it; None when none were.
        change: predicts label changes, with the last candidate as the target; None when it was not fitted.
        preferred: the scorer that a refresh with this ranker takes when none is named; None for "router".
    """

    n_classes: int
    form: InputForm
    width: int
    candidates: tuple[Candidate, ...]
    holdout: Holdout | None = field(default=None, compare=False)
    change: ChangePredictor | None = field(default=None, compare=False)
    preferred: str | None = None

    def inputs(self, probs: Floats) -> Floats:
        """Bring distributions into the form that the regressors read.

        Args:
            probs: shape (m, C).

        Returns:
            Shape (m, width).
        """
        if self.form == "plain":
            return probs
        return descending(probs, self.width)

    def benefits(self, distributions: Encoded | Floats) -> Floats:
        """Predict the entropy decrease that each candidate would bring.

        Args:
            distributions: shape (m, C), or m rows as a cache stores them.

        Returns:
            Shape (m, n), nats, one column per candidate, in the order of `candidates`.

        Raises:
            InputError: distributions over another number of classes.
        """
        rows = encoded(distributions)
        n_classes = rows.encoding.n_classes
        if n_classes != self.n_classes:
            raise InputError(f"the ranker reads {self.n_classes} classes, the cache has {n_classes}")
        # One product for all candidates: sorting or gathering is done once.
        first = np.concatenate([candidate.layers[0][0] for candidate in self.candidates], axis=1)
        ends = np.cumsum([candidate.layers[0][0].shape[1] for candidate in self.candidates])
        result = np.empty((len(rows), len(self.candidates)), dtype=np.float32)

        def finish(block: slice, products: Floats) -> None:
            parts = np.split(products, ends[:-1], axis=1)
            for column, (candidate, part) in enumerate(zip(self.candidates, parts, strict=True)):
                result[block, column] = _after_products(candidate.layers, part)

        multiply(rows, first, self.form == "sorted", finish)
        return result

    def scorer(self, names: Sequence[str], kind: str = "router", target: str | None = None) -> Scorer:
        """Make a scorer for candidates by name.

        Args:
            names: the candidates of the round, each known to the ranker.
            kind: "router" ranks by predicted entropy decrease, "change" by predicted change of label.
            target: the candidate whose full re-run is the reference; "change" was fitted for one.

        Raises:
            InputError: a candidate that the ranker was not fitted for, or another target.
        """
        known = [candidate.name for candidate in self.candidates]
        for name in names:
            if name not in known:
                raise InputError(
                    f"the ranker was fitted for {', '.join(known)}, not for {name!r}: "
                    "run `sparing fit` for it"
                )
        columns = [known.index(name) for name in names]
        digest = ranker_digest(self.to_bytes())
        if kind == "router":
            return Scorer(
                "router",
                digest,
                lambda rows, _ties, _holders=(), _held=None: self.benefits(rows)[:, columns],
            )
        change = self.change
        if change is None:
            raise InputError("this ranker has no change predictor: run `sparing fit` again")
        if target is not None and target != known[-1]:
            raise InputError(
                f"the change predictor was fitted with {known[-1]!r} as the target, not {target!r}: "
                "give `sparing fit` that candidate last"
            )

        def benefits(
            rows: Encoded | Floats,
            ties: npt.NDArray[np.uint64],  # noqa: ARG001 -- a score by the rows alone
            holders: Sequence[str] = (),
            held: npt.NDArray[np.int64] | None = None,
        ) -> Floats:
            probs = rows.decode() if isinstance(rows, Encoded) else rows
            if held is None:
                held = np.zeros(len(probs), dtype=np.int64)
            return change.benefits(probs, holders or ("",), held)[:, columns]

        return Scorer("change", f"change:{digest}", benefits)

    def to_bytes(self) -> bytes:
        """Write the ranker as a NumPy archive, without any pickle."""
        header = {
            "format": FORMAT,
            "n_classes": self.n_classes,
            "form": self.form,
            "width": self.width,
            "candidates": [
                {"name": c.name, "digest": c.digest, "seconds": c.seconds, "layers": len(c.layers)}
                for c in self.candidates
            ],
            "change": self.change is not None,
            "preferred": self.preferred,
            "evidence": self.holdout is not None,
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            "header": np.frombuffer(json.dumps(header).encode("utf-8"), dtype=np.uint8)
        }
        for index, candidate in enumerate(self.candidates):
            for layer, (weights, biases) in enumerate(candidate.layers):
                arrays[f"weights_{index}_{layer}"] = weights
                arrays[f"biases_{index}_{layer}"] = biases
        if self.change is not None:
            arrays.update(self.change.to_arrays())
        if self.holdout is not None:
            arrays.update(self.holdout.to_arrays())
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "the ranker") -> "Ranker":
        """Read what `to_bytes` wrote; nothing in it is unpickled.

        Raises:
            InputError: not a ranker, or one of a newer release.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                header = json.loads(archive["header"].tobytes())
                if header["format"] > FORMAT:
                    raise InputError(f"{where} was written by a newer release of Sparing: upgrade to read it")
                candidates = tuple(
                    Candidate(
                        entry["name"],
                        entry["digest"],
                        tuple(
                            (archive[f"weights_{index}_{layer}"], archive[f"biases_{index}_{layer}"])
                            for layer in range(entry["layers"])
                        ),
                        entry["seconds"],
                    )
                    for index, entry in enumerate(header["candidates"])
                )
                holdout = Holdout.from_arrays(archive) if header["evidence"] else None
                change = ChangePredictor.from_arrays(archive) if header.get("change") else None
                return cls(
                    n_classes=header["n_classes"],
                    form=header["form"],
                    width=header["width"],
                    candidates=candidates,
                    holdout=holdout,
                    change=change,
                    preferred=header.get("preferred"),
                )
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{where} is not a ranker file: {type(error).__name__}: {error}") from error

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
    """Fit one regressor per candidate by mean squared error: Adam, 1e-3, batches of 32 (PURE, 3.2 and B.3).

    Args:
        old: shape (m, C), cached distributions.
        new: n arrays of shape (m, C), each candidate's distributions for the same samples.
        names: n names.
        digests: n digests; None where only outputs are known.
        form: "sorted" (default) reads the largest 32 entries in descending order: it needs fewer rows, since
            it does not have to learn every class by itself. "plain" reads the whole vector, as in the paper.
        hidden: sizes of the hidden layers; 64 as in appendix B.3.
        epochs: passes over the rows.
        seed: fixes the start and the shuffling.

    Returns:
        The ranker, without holdout.

    Raises:
        InputError: no rows, or shapes that do not match.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    if len(old) < 2:
        raise InputError(f"a ranker cannot be fitted on {len(old)} rows: give it a few hundred at least")
    for name, outputs in zip(names, new, strict=True):
        if outputs.shape != old.shape:
            raise InputError(
                f"candidate {name!r} has outputs of shape {outputs.shape}, the cache {old.shape}: "
                "old and new models must share their classes"
            )
    width = min(old.shape[1], SORTED_WIDTH) if form == "sorted" else old.shape[1]
    empty = Ranker(old.shape[1], form, width, ())
    inputs = empty.inputs(old)
    before = entropy(old)
    candidates = []
    for name, digest, outputs in zip(names, digests, new, strict=True):
        network = MLPRegressor(
            hidden_layer_sizes=tuple(hidden),
            solver="adam",
            learning_rate_init=1e-3,
            batch_size=min(32, len(old)),
            max_iter=epochs,
            tol=0.0,
            n_iter_no_change=epochs,
            random_state=seed,
        )
        with warnings.catch_warnings():
            # A fixed number of epochs is the recipe, not a failure to converge.
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(inputs, before - entropy(outputs))
        layers = tuple(
            (w.astype(np.float32), b.astype(np.float32))
            for w, b in zip(network.coefs_, network.intercepts_, strict=True)
        )
        candidates.append(Candidate(name, digest, layers))
    return Ranker(old.shape[1], form, width, tuple(candidates))


def descending(probs: Floats, width: int) -> Floats:
    """Give the largest entries of each row, largest first.

    Args:
        probs: shape (m, C).
        width: how many, at most C.

    Returns:
        Shape (m, width).
    """
    return largest(probs, width)[:, ::-1]


def _after_products(layers: Layers, products: Floats) -> Floats:
    """Finish a network's forward pass from the products of its first layer, which are overwritten."""
    values = products
    values += layers[0][1]
    for weights, biases in layers[1:]:
        np.maximum(values, 0, out=values)
        values = values @ weights
        values += biases
    return values[:, 0]
