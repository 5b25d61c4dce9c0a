"""What a benchmark ran on, in words, without naming the machine."""

import os
import platform


def machine() -> str:
    """Cores, memory, platform and Python version, such as "2 cores, 24 GiB, x86_64 Linux, Python 3.11"."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()} {platform.system()}, Python {python}"
    )
