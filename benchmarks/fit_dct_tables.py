"""Fit the fixed probabilities of `sparing.offload.codecs.dct` to photographs, and write `dct_tables.py`.

They belong to the format of `dct8`, `dct16` and `dct32`: other tables need codecs of other names and numbers.

    python benchmarks/fit_dct_tables.py --images intel_scenes/train.parquet \
        --out src/sparing/offload/codecs/dct_tables.py
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from sparing.offload.codecs import dct

KINDS, LEVELS = 48, len(dct.ACTIVITY_EDGES) + 1
EDGES = sorted({round(2 ** (i / 2)) for i in range(39)})
QUALITIES = range(12, 50, 4)
CUT = 1 / 256  # the least a bin's mean may be


def images(path: Path, count: int) -> list[np.ndarray]:
    """Every photograph twice: scaled to 32x32 and a 96x96 part of it."""
    found = []
    for data in pq.read_table(path, columns=["image"])["image"].to_pylist()[:count]:
        photo = Image.open(io.BytesIO(data)).convert("RGB")
        found.append(np.asarray(photo.resize((32, 32), Image.Resampling.LANCZOS)))
        if len(found) % 8 == 1:
            found.append(np.asarray(photo.resize((96, 96), Image.Resampling.LANCZOS)))
    return found


def fit_classes(coefficients: dict[int, list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean size of coefficients by frequency and channel, in quarter octaves; and of the image's mean."""
    sums, counts = np.zeros((3, len(EDGES) + 1)), np.zeros(len(EDGES) + 1)
    means = []
    for block, group in coefficients.items():
        for c in group:
            keys = dct.frequency_keys(*c.shape[1:4])
            bins = np.searchsorted(EDGES, keys, side="right")
            flat = np.ones(bins.shape, dtype=bool)
            flat[0, 0, 0, 0] = False
            np.add.at(counts, bins[flat], 1)
            for channel in range(3):
                np.add.at(sums[channel], bins[flat], np.abs(c[channel][flat]))
            if c.shape[1] * c.shape[2] * block * block == 1024:
                means.append(np.abs(c[:, 0, 0, 0, 0]))
    mean = np.maximum(sums / np.maximum(counts, 1), CUT)
    classes = np.rint(4 * np.log2(mean)).astype(int)
    for at in range(len(counts)):  # frequencies that no training image has take those of the next one
        if counts[at] == 0:
            classes[:, at] = classes[
                :, np.flatnonzero(counts > 0)[np.abs(np.flatnonzero(counts > 0) - at).argmin()]
            ]
    return classes, np.rint(4 * np.log2(np.mean(means, axis=0))).astype(int)


def laplace() -> np.ndarray:
    """What a Laplace distribution says, where counts are few."""
    ratio = np.exp2((np.arange(KINDS) - 32) / 4)
    return np.repeat(np.stack([np.exp(-0.5 / ratio), np.exp(-1 / ratio)])[:, :, None], LEVELS, axis=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photos = images(args.images, args.count)
    coefficients = {block: [dct.transform(photo, block) for photo in photos] for block in (8, 16, 32)}
    classes, mean_class = fit_classes(coefficients)
    counts = np.zeros((2, 2, KINDS, LEVELS))
    for group in coefficients.values():
        for c in group:
            layout = dct.layout_of(c.shape[1:4], EDGES, classes, mean_class)
            for quality in QUALITIES:
                dct.count(dct.quantise(c, quality), layout, dct.class_shift(quality, 1), counts)
    weight = 20
    odds = (counts[:, 1] + weight * laplace()) / (counts.sum(axis=1) + weight)
    odds = np.clip(np.rint(odds * 65536), 8, 65528).astype(int)
    text = '"""Fixed probabilities of the tiny image codec, written by `benchmarks/fit_dct_tables.py`."""\n\n'
    text += "import numpy as np\n\n"
    text += f"FREQUENCY_EDGES = {EDGES}\n"
    text += f"CLASSES = {classes.tolist()}\nMEAN_CLASS = {mean_class.tolist()}\n"
    text += f"ODDS = np.array({odds.tolist()}, dtype=np.int64)\n"
    args.out.write_text(text)
    print(f"{len(photos)} images, {int(counts[0].sum())} coefficients")


if __name__ == "__main__":
    main()
