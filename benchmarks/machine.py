"""What machine a benchmark ran on, in the words that its result file carries."""

import os
import platform
from pathlib import Path


def describe() -> str:
    """Name the processor, the cores, the memory and the Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return (
        f"{_processor()}, {cores} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def load() -> str:
    """Give the load average, so that a reader can tell whether the machine was quiet."""
    return "load average " + " ".join(f"{value:.1f}" for value in os.getloadavg())
