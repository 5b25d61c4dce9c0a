"""What deciding costs beside running models: scoring and selection, against the machine's own limits.

    python benchmarks/overhead.py

Scores 1M and 10k random distributions over 100 classes from every encoding, side by side with numpy, and
selects half of up to 100M scores. Writes benchmarks/results/overhead.md.
"""

import argparse
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from machine import describe, load
from sparing.cache.encodings import Encoded, encoded, parse_encoding
from sparing.cache.encodings.scoring import uncertainty
from sparing.numerics.selection import Items, find_cut
from sparing.refresh.scoring.ranker import Candidate, Ranker
from sparing.refresh.scoring.router import Router
from timing import keep_freed_memory, median, p95, read_all, side_by_side, table

CLASSES, HIDDEN = 100, 64
FORMS = ("float32", "float16", "int8", "int4", "top8-int4", "top4-int4", "top1-int4")
BLOCK = 8192
Ways = dict[str, Callable[[], object]]


def distributions(m: int) -> np.ndarray:
    """Draw softmax outputs of a classifier that is sometimes sure."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((m, CLASSES), dtype=np.float32) * rng.uniform(1, 6, (m, 1)).astype(
        np.float32
    )
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def rankers() -> tuple[Ranker, Ranker]:
    """Make a ranker that reads the vector as it stands, and one that reads the largest 32 in order."""
    rng = np.random.default_rng(1)

    def layers(inputs: int) -> tuple:
        shapes = ((inputs, HIDDEN), (HIDDEN, 1))
        return tuple(
            (rng.normal(size=s).astype(np.float32), rng.normal(size=s[1]).astype(np.float32)) for s in shapes
        )

    candidates = (Candidate("new", "d"),)
    plain = Ranker(CLASSES, candidates, {"router": Router("plain", (layers(CLASSES),))})
    return plain, Ranker(CLASSES, candidates, {"router": Router("sorted", (layers(32),))})


def in_numpy(probs: np.ndarray, score: Callable) -> Callable[[], object]:
    """Score block by block."""
    return lambda: np.concatenate([score(probs[at : at + BLOCK]) for at in range(0, len(probs), BLOCK)])


def check(ways: Ways, reference: str, tolerance: float) -> None:
    """Stop when ways that should agree do not."""
    expected = np.ravel(ways[reference]())
    for name, way in ways.items():
        worst = np.abs(np.ravel(way()) - expected).max()
        if worst > tolerance:
            raise SystemExit(f"{name} differs from {reference} by {worst}")


def large(m: int, repeats: int) -> list[str]:
    """Score a large table from every encoding."""
    probs = distributions(m)
    rows: dict[str, Encoded] = {
        name: replace(parse_encoding(name, CLASSES).encode(probs), compiled=True) for name in FORMS
    }
    what, limit = "reading the float32 table on all cores", read_all(probs)
    lines = [
        f"## {m:,} rows of {CLASSES} classes, {repeats} interleaved runs, medians",
        "",
        "The limit is measured in the same runs: reading the float32 table with all cores.",
        "",
    ]
    sections: list[tuple[str, Ways, Callable[[Encoded], object], float]] = [
        (
            "Entropy",
            {"numpy, -(p*log p).sum(1) in blocks": in_numpy(probs, lambda p: -(p * np.log(p)).sum(1))},
            lambda e: uncertainty(e, "entropy"),
            1e-4,
        ),
        (
            "1 - margin",
            {"numpy, np.partition in blocks": in_numpy(probs, _margin)},
            lambda e: uncertainty(e, "margin"),
            1e-5,
        ),
    ]
    for title, peers, score, tolerance in sections:
        ways = {**peers, **{f"sparing, {name}": partial(score, e) for name, e in rows.items()}}
        check({name: ways[name] for name in (*peers, "sparing, float32")}, next(iter(peers)), tolerance)
        times = side_by_side({what: limit, **ways}, repeats)
        peer = min(median(times[name]) for name in peers)
        lines += [f"### {title}", ""]
        lines += table(
            ("", "ms", "fastest ms", "µs/row", "of the best peer", "of the limit"),
            [
                (
                    name,
                    f"{1e3 * median(t):.1f}",
                    f"{1e3 * min(t):.1f}",
                    f"{1e6 * median(t) / m:.4f}",
                    f"{median(t) / peer:.2f}",
                    f"{median(t) / median(times[what]):.2f}",
                )
                for name, t in times.items()
            ],
        )
        lines.append("")
    return lines


def _margin(part: np.ndarray) -> np.ndarray:
    top = np.partition(part, -2, axis=1)
    return 1 - (top[:, -1] - top[:, -2])


def small(m: int, repeats: int) -> list[str]:
    """Score a table of Table 8's size as the refresh job does: small, so by numpy."""
    probs = distributions(m)
    plain, ordered = rankers()
    rows = encoded(probs)
    scores = uncertainty(rows, "entropy")
    ties = np.random.default_rng(2).integers(0, 1 << 63, m).astype(np.uint64)
    items = Items(scores, ties, np.arange(m))
    ways: Ways = {
        "PURE router 100-64-1": lambda: plain.benefits(rows),
        "sorted router 32-64-1": lambda: ordered.benefits(rows),
        "entropy": lambda: uncertainty(rows, "entropy"),
        "sort only: np.argsort": lambda: np.argsort(-scores),
        "sort only: exact top half with ties": lambda: _half(items),
    }
    first = {}
    for name, way in ways.items():
        started = perf_counter()
        way()
        first[name] = perf_counter() - started
    times = side_by_side(ways, repeats)
    return [
        f"## {m:,} rows, as in PURE's Table 8; {repeats} interleaved runs",
        "",
        "The paper's x86 processor: PURE 3.098 ms, entropy 0.270 ms, sort only 0.131 ms; its A40: 0.365, "
        "0.197 and 0.139 ms.",
        "",
        *table(
            ("", "median ms", "P95 ms", "µs/sample", "first call ms"),
            [
                (
                    name,
                    f"{1e3 * median(t):.3f}",
                    f"{1e3 * p95(t):.3f}",
                    f"{1e6 * median(t) / m:.4f}",
                    f"{1e3 * first[name]:.3f}",
                )
                for name, t in times.items()
            ],
        ),
        "",
    ]


def _half(items: Items) -> np.ndarray:
    cut = find_cut(lambda: [items], len(items.scores) // 2)
    return np.ones(len(items.scores), bool) if cut is None else cut.takes(items)


def _half_streamed(items: Items, rows: int = 65_536) -> np.ndarray:
    def chunks():
        for at in range(0, len(items.scores), rows):
            part = slice(at, at + rows)
            yield Items(items.scores[part], items.ties[part], items.ids[part])

    cut = find_cut(chunks, len(items.scores) // 2)
    return np.concatenate([cut.takes(part) for part in chunks()])


def selection(m: int, repeats: int) -> list[str]:
    """Select half of many scores, in memory and over a stream."""
    rng = np.random.default_rng(3)
    ties, ids = rng.integers(0, 1 << 63, m).astype(np.uint64), np.arange(m)
    kinds = {
        "float32 scores": rng.gamma(1, 1, m).astype(np.float32),
        "16 distinct scores": rng.choice(np.linspace(0, 4, 16, dtype=np.float32), m),
    }
    lines = [f"## Exact selection of half of {m:,} scores with the tie rule, {repeats} interleaved runs", ""]
    rows = []
    for name, scores in kinds.items():
        items = Items(scores, ties, ids)
        if not (_half(items) == _half_streamed(items)).all():
            raise SystemExit("memory and stream differ")
        tracemalloc.start()
        _half(items)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        times = side_by_side(
            {
                "stable argsort (no tie rule)": lambda s=scores: np.argsort(-s, kind="stable"),
                "in memory": lambda i=items: _half(i),
                "over a stream of 65,536-row chunks": lambda i=items: _half_streamed(i),
            },
            repeats,
        )
        sort, memory = median(times["stable argsort (no tie rule)"]), median(times["in memory"])
        for way, t in times.items():
            used = f"{peak / 1e6:.0f}" if way == "in memory" else ""
            rows.append(
                (
                    f"{name}: {way}",
                    f"{1e3 * median(t):.0f}",
                    f"{median(t) / sort:.3f}",
                    f"{median(t) / memory:.2f}",
                    used,
                )
            )
    lines += table(("", "ms", "of the argsort", "of in memory", "MB beyond the input"), rows)
    lines += ["", "Peak memory of a process that selects from a stream made up on the fly:", ""]
    sizes = (0, m // 10, m, 10 * m)
    lines += table(("rows", "peak resident MB"), [(f"{n:,}", _streaming_peak(n)) for n in sizes])
    return [*lines, ""]


def _streaming_peak(rows: int) -> str:
    done = subprocess.run(
        [sys.executable, __file__, "--stream", str(rows)], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def stream(rows: int) -> None:
    """Select half of a stream that is never in memory, and print the peak."""

    def chunks():
        for at in range(0, rows, 65_536):
            rng = np.random.default_rng(at)
            n = min(65_536, rows - at)
            scores = rng.standard_exponential(n, dtype=np.float32)
            yield Items(scores, rng.integers(0, 1 << 63, n).astype(np.uint64), np.arange(at, at + n))

    cut = find_cut(chunks, rows // 2)
    taken = sum(int(cut.takes(part).sum()) for part in chunks()) if cut else 0
    if taken != rows // 2:
        raise SystemExit(f"took {taken} of {rows}")
    # Not getrusage: that counts the parent's memory at the fork, too.
    status = Path("/proc/self/status").read_text()
    print(round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024))


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "overhead.md")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--scores", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream is not None:
        stream(arguments.stream)
        return
    keep_freed_memory()
    before = load()
    lines = [
        "# Overhead of deciding",
        "",
        "Command: `python benchmarks/overhead.py` (`make bench`)  ",
        f"Machine: {describe()}; {before} before, ",
        "",
        *small(10_000, 101),
        *large(arguments.rows, arguments.repeats),
        *selection(arguments.scores, arguments.repeats),
    ]
    lines[3] += f"{load()} after"
    text = "\n".join(lines)
    print(text)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
