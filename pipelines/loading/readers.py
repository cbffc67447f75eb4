"""Threads that read files: a few where the files are in memory or on a local disk, many where the storage is far away."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

CHUNK = 4  # images of a batch that a thread is given at a time
FAR_S = 2e-3  # a read that waits so long waits for a network or a disk's head
FAR_THREADS = 512
BUSY = 4


class Readers:
    """Maps a reading function over a batch's images; how many threads that needs is learnt from how long reads wait."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self.near = ThreadPoolExecutor(num_threads, thread_name_prefix="read")
        self.far = ThreadPoolExecutor(FAR_THREADS, thread_name_prefix="read-far")  # starts none before they are needed
        self.is_far = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.near.shutdown()
        self.far.shutdown()

    def map(self, read: Callable[[int], T], indices: Sequence[int]) -> list[T]:
        """`read` of each index, in order."""
        far: list[bool] = []

        def timed(index: int) -> T:
            start, computing = time.perf_counter(), time.thread_time()
            result = read(index)
            computing = time.thread_time() - computing
            waiting = time.perf_counter() - start - computing
            # On a busy machine a thread waits for its turn, several times as long as all threads compute.
            far.append(waiting > max(FAR_S, BUSY * self.num_threads * computing))
            return result

        if self.is_far:
            return in_chunks(self.far, read, indices, chunk=1)
        results = in_chunks(self.near, timed, indices)
        self.is_far = 2 * sum(far) > len(far)
        return results


def in_chunks(workers: ThreadPoolExecutor, work: Callable[[int], T], items: Sequence[int], chunk: int = CHUNK) -> list[T]:
    """`work` of each item, in order; `chunk` items a task: handing over a task takes longer than reading a cached file."""
    chunks = (items[k : k + chunk] for k in range(0, len(items), chunk))
    return [result for results in workers.map(lambda some: [work(item) for item in some], chunks) for result in results]
