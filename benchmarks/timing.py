"""How benchmarks measure: medians of interleaved runs, what the machine can do at most, and tables."""

import contextlib
import ctypes
import statistics
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np

from sparing.numerics.blocks import in_blocks

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def side_by_side(ways: Mapping[str, Callable[[], object]], repeats: int = 7) -> dict[str, list[float]]:
    """Time several ways in turn, so that a disturbance hits all of them.

    Args:
        ways: functions by name; each is called once beforehand.
        repeats: how often each is timed.

    Returns:
        Seconds of each run, by name.
    """
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = perf_counter()
            way()
            times[name].append(perf_counter() - started)
    return times


def keep_freed_memory() -> None:
    """Tell glibc not to give memory back: what page faults cost one way would depend on the ways before it."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def median(times: Sequence[float]) -> float:
    """Give the median."""
    return statistics.median(times)


def p95(times: Sequence[float]) -> float:
    """Give the 95th percentile, interpolated."""
    return float(np.percentile(times, 95))


def read_all(array: np.ndarray) -> Callable[[], None]:
    """Make a function that does nothing but read an array, on all cores."""
    words = array.reshape(-1).view(np.int64)

    def read() -> None:
        in_blocks(lambda block: np.bitwise_or.reduce(words[block]), len(words), 1 << 17)

    return read


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Write a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
