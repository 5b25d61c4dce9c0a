"""Two models of handwritten digits, as `make demo` and the README use them.

The data come with scikit-learn: 1,797 pictures of 8x8 pixels. The models are trained on the first 500 of a
fixed shuffle; the album that a cache holds is the last 997; the 300 between are used by neither.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LogisticRegression

import sparing

TRAIN, ALBUM = slice(0, 500), slice(800, None)


@cache
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give ids, pictures of shape (1797, 64) from 0 to 1, and digits."""
    pictures, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pictures))
    ids = np.array([f"digit-{number:04d}" for number in range(len(pictures))])
    return ids, pictures[order] / 16, digits[order]


@cache
def _old() -> LogisticRegression:
    _, pictures, digits = data()
    return LogisticRegression(C=0.05, max_iter=500).fit(pictures[:60], digits[:60])


@cache
def _new() -> GaussianProcessClassifier:
    _, pictures, digits = data()
    seen = pictures[TRAIN].reshape(-1, 8, 8)
    twice = np.concatenate([seen, np.roll(seen, 1, axis=2)]).reshape(-1, 64)
    return GaussianProcessClassifier(RBF(1.0), optimizer=None).fit(twice, np.tile(digits[TRAIN], 2))


def old(values: list) -> np.ndarray:
    """A quick model that saw 60 pictures: from m pictures to (m, 10)."""
    return _old().predict_proba(np.stack(values))


def new(values: list) -> np.ndarray:
    """A slow model that saw 500 pictures, as they are and shifted: from m pictures to (m, 10)."""
    return _new().predict_proba(np.stack(values))


def write(out: Path) -> None:
    """Write what a team would have: digits.parquet (the album) and old.parquet (the old model's outputs)."""
    ids, pictures, digits = data()
    out.mkdir(parents=True, exist_ok=True)
    album = {"id": ids[ALBUM], "value": list(pictures[ALBUM]), "label": digits[ALBUM]}
    pq.write_table(pa.table(album), out / "digits.parquet")
    sparing.write_outputs(
        out / "old.parquet", pa.array(ids[ALBUM]), old(list(pictures[ALBUM])), digits[ALBUM]
    )
