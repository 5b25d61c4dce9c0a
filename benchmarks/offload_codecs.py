"""Codecs at equal bytes on larger images, and the speed of selection, coding and reading.

python benchmarks/offload_codecs.py --scenes ../shared/data/intel_scenes/test.parquet --count 100 \
        --out benchmarks/results/offload_codecs.md
"""

import argparse
import io
from contextlib import redirect_stdout
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow.parquet as pq

from sparing.offload import EdgeOutput, Geometry, Scheme, policies, read_image
from sparing.offload.codecs import CODECS
from sparing.offload.wire.payload import unpack

BUDGETS = [512, 1024, 2048, 4096]
SMALL = Geometry(32, 32, 4)


def quality(pixels: np.ndarray, geometry: Geometry) -> None:
    m = len(pixels)
    seen = EdgeOutput(np.zeros((m, 2)), np.ones((m, geometry.patches)), np.ones((m, geometry.patches, 1)))
    print("| codec | " + " | ".join(f"{budget} B" for budget in BUDGETS) + " |")
    print("|---|" + "---|" * len(BUDGETS))
    for codec in CODECS:
        cells = []
        for payloads in Scheme.parse(f"whole:{codec}").encode(pixels, seen, geometry, BUDGETS):
            sent = [(unpack(p, geometry).patches, row) for row, p in enumerate(payloads) if p is not None]
            truth = geometry.cut(pixels)
            errors = [((patches.astype(float) - truth[row]) ** 2).mean() for patches, row in sent]
            unsent = f" ({m - len(sent)} unsent)" if len(sent) < m else ""
            cells.append(
                f"{np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-9))):.1f}{unsent}" if sent else "-"
            )
        print(f"| {codec} | " + " | ".join(cells) + " |", flush=True)


def best(function, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = perf_counter()
        function()
        times.append(perf_counter() - started)
    return 1000 * min(times)


def speed(pixels: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    attention = rng.random((64, 196)).astype(np.float32)
    embeddings = rng.normal(size=(64, 196, 192)).astype(np.float32)
    policies.sage(attention, embeddings, 96)
    one = best(lambda: policies.sage(attention[:1], embeddings[:1], 96), 300)
    many = best(lambda: policies.sage(attention, embeddings, 96), 20) / 64
    print(f"| SAGE, 196 patches, width 192, B = 96, one image | {one:.2f} |")
    print(f"| the same, in a batch of 64, per image | {many:.2f} |")
    m = len(pixels)
    seen = EdgeOutput(np.zeros((m, 2)), rng.random((m, 64)), rng.normal(size=(m, 64, 128)))
    for text in ("raw:sage", *(f"whole:{codec}" for codec in CODECS), "mosaic:spread:32:dct8"):
        scheme = Scheme.parse(text)
        payloads = scheme.encode(pixels, seen, SMALL, [256])[0]
        made = best(lambda scheme=scheme: scheme.encode(pixels, seen, SMALL, [256]), 3) / m
        read = best(lambda payloads=payloads: [unpack(p, SMALL) for p in payloads if p], 3) / m
        print(f"| `{text}`, 32x32 pixels, filled to 256 B: make | {made:.2f} |")
        print(f"| `{text}`: read | {read:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    encoded = pq.read_table(args.scenes, columns=["image"])["image"].to_pylist()[: args.count]
    page = io.StringIO()
    with redirect_stdout(page):
        print("# Codecs and speed\n")
        for side in (32, 96):
            geometry = Geometry(side, side, 4 if side == 32 else 16)
            print(
                f"## {len(encoded)} scene photographs at {side}x{side}: mean PSNR in dB within a hard cap\n"
            )
            quality(np.stack([read_image(data, geometry) for data in encoded]), geometry)
            print()
        print("## Milliseconds, one thread, best of several runs\n\n| what | ms |\n|---|---|")
        speed(np.stack([read_image(data, SMALL) for data in encoded[:30]]))
    print(page.getvalue())
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page.getvalue())


if __name__ == "__main__":
    main()
