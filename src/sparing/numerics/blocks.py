"""Blocks of rows side by side on the cores that this process may use."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


def in_blocks(work: Callable[[slice], None], rows: int, block_rows: int) -> None:
    """Call a function for every block of rows, from one thread per core.

    While they run, BLAS keeps to the thread that calls it: threads of its own would compete with these.

    Args:
        work: called with slices that cover all rows once; releases the interpreter lock in what takes long.
        rows: how many rows there are.
        block_rows: rows of every block but the last.
    """
    blocks = [slice(start, min(start + block_rows, rows)) for start in range(0, rows, block_rows)]
    with _libraries().limit(limits=1, user_api="blas"):
        # The list is what makes an error of a block come out here.
        list(_threads().map(work, blocks))


@cache
def _threads() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(cores, thread_name_prefix="sparing-block")


@cache
def _libraries() -> Any:
    return ThreadpoolController()


# Threads do not survive a fork: the child starts its own.
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_threads.cache_clear)
