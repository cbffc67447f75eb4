"""Prefetching: a background thread prepares the next element while the caller uses the current one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from pipelines.loading.device import bind_thread

T = TypeVar("T")

CPU = torch.device("cpu")


def prefetch(iterator: Iterator[T], device: torch.device = CPU) -> Iterator[T]:
    """Yields the same elements; the next one is made in a background thread, whose current GPU is `device`."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch", initializer=bind_thread, initargs=(device,)) as pool:
        end = object()
        ahead = pool.submit(next, iterator, end)
        while (element := ahead.result()) is not end:
            ahead = pool.submit(next, iterator, end)
            yield element  # type: ignore[misc]
