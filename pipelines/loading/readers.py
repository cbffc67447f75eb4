"""Who reads files: the calling thread if they are in memory, a few threads for local disks, hundreds for remote storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

CHUNK = 4  # images that a thread takes at a time
SLOW_READ_S = 2e-3  # a read that waits longer waits for a network or for a disk's head
REMOTE_THREADS = 512
WAIT_PER_COMPUTE = 4  # on a busy machine; see `Readers.map`
# Reads that take less are better made one after the other: they mostly hold Python's lock, and threads that pass it to each
# other made the loader slower by a tenth.
QUICK_READ_S = 250e-6


class Readers:
    """Maps a reading function over the images of a batch, with as many threads as the time that it takes asks for."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self.local = ThreadPoolExecutor(num_threads, thread_name_prefix="read")
        # Starts threads only when there is work for them.
        self.remote = ThreadPoolExecutor(REMOTE_THREADS, thread_name_prefix="read-remote")
        self.is_remote = False
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.local.shutdown()
        self.remote.shutdown()

    def map(self, read: Callable[[int], T], indices: Sequence[int]) -> list[T]:
        """The results of `read` for each index, in order."""
        waited_long: list[bool] = []

        def timed(index: int) -> T:
            start, computing = time.perf_counter(), time.thread_time()
            result = read(index)
            computing = time.thread_time() - computing
            waiting = time.perf_counter() - start - computing
            # On a busy machine a thread also waits for a CPU, several times as long as all threads compute.
            waited_long.append(waiting > max(SLOW_READ_S, WAIT_PER_COMPUTE * self.num_threads * computing))
            return result

        if self.is_remote:
            return in_chunks(self.remote, read, indices, chunk=1)
        results = self._quickly(read, indices)
        results += in_chunks(self.local, timed, indices[len(results) :])
        self.is_remote = 2 * sum(waited_long) > len(waited_long)
        return results

    def _quickly(self, read: Callable[[int], T], indices: Sequence[int]) -> list[T]:
        """The results for the first indices: for all of them, unless the reads turn out not to be quick."""
        results: list[T] = []
        with self._one_at_a_time:
            start = time.perf_counter()
            for index in indices:
                results.append(read(index))
                if time.perf_counter() - start > QUICK_READ_S * max(len(results), CHUNK):
                    break
        return results


def in_chunks(workers: ThreadPoolExecutor, work: Callable[[int], T], items: Sequence[int], chunk: int = CHUNK) -> list[T]:
    """The results of `work` for each item, in order.

    A task has `chunk` items, because submitting a task takes longer than reading a cached file.
    """
    chunks = (items[k : k + chunk] for k in range(0, len(items), chunk))
    return [result for results in workers.map(lambda some: [work(item) for item in some], chunks) for result in results]
