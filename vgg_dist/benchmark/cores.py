"""Limits this process, and the processes that it starts, to a number of CPU cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited_to_cores(count: int) -> Iterator[None]:
    """Inside this context, all threads and new processes run on the same `count` cores (on Linux; elsewhere a no-op).

    Raises ValueError, one line, if this process may use fewer cores.
    """
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    if count > len(before):
        raise ValueError(f"--threads {count}: this process may use {len(before)} CPU cores")
    _set_affinity(set(sorted(before)[:count]))
    try:
        yield
    finally:
        _set_affinity(before)


if sys.platform == "linux":

    def _set_affinity(cores: set[int]) -> None:
        for thread in os.listdir("/proc/self/task"):
            try:
                os.sched_setaffinity(int(thread), cores)
            except ProcessLookupError:  # the thread has ended
                continue
