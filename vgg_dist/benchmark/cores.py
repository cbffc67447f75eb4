"""Holding this process, and what it starts, to a number of CPU cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_to_cores(count: int) -> Iterator[None]:
    """Threads and processes started within run on the same `count` cores, where the system can do that (Linux).

    ValueError, one line, if this process has fewer.
    """
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    if count > len(before):
        raise ValueError(f"--threads {count}: this process may use {len(before)} CPU cores")
    _hold(set(sorted(before)[:count]))
    try:
        yield
    finally:
        _hold(before)


if sys.platform == "linux":

    def _hold(cores: set[int]) -> None:
        for thread in os.listdir("/proc/self/task"):
            try:
                os.sched_setaffinity(int(thread), cores)
            except ProcessLookupError:  # it has ended meanwhile
                continue
