"""Copies whole shards into the node's cache in the order in which a node's processes will read them, ahead of them.

A node's processes read different samples of the same shards at about the same time. Each of them makes the same schedule
for the whole node, and copies every n-th shard of it, so nothing is copied twice and the processes need not talk.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipelines.stores.cached_shards import CachedShards
from pipelines.stores.eviction import Upcoming
from pipelines.stores.node_cache import DamagedShard
from pipelines.stores.sample_store import ReadAhead

_logger = logging.getLogger(__name__)

WORTH = 0.5  # a shard is copied if the node reads more than this share of its samples' bytes
AHEAD = 16  # see Schedule.upcoming


@dataclass(frozen=True)
class Schedule:
    """The shards to copy, in the order of their first use. Arrays have an entry per shard.

    `shards`: numbers; `sizes`: bytes; `first`, `last`: the times of the first and of the last use. A time is whatever the
    readers count, such as samples of the epoch. `budget`: bytes that the shards in use may take at any time.
    """

    shards: NDArray[np.int64]
    sizes: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    budget: int

    def __len__(self) -> int:
        return len(self.shards)

    def upcoming(self, reached: int) -> tuple[NDArray[np.int64], int]:
        """The entries that are not used up at the time `reached`, and how many of them the cache should hold then.

        These are the first ones: those in use, and ahead of them as many bytes again, or a 16th of the budget. More would
        displace shards of an earlier epoch that this one will use, too.
        """
        entries = np.flatnonzero(self.last >= reached)
        sizes = self.sizes[entries]
        in_use = int(sizes[self.first[entries] <= reached].sum())
        most = min(self.budget, in_use + max(in_use, self.budget // AHEAD))
        return entries, int(np.searchsorted(np.cumsum(sizes), most, side="right"))


def schedule(
    shards: NDArray[np.integer],
    times: NDArray[np.int64],
    sample_bytes: NDArray[np.int64],
    all_bytes: NDArray[np.int64],
    shard_bytes: NDArray[np.int64],
    budget: int,
) -> Schedule:
    """The schedule for a node that reads samples in these `shards` (m,), of `sample_bytes` (m,), at `times` (m,) ascending.

    `all_bytes` (shards,): the bytes of all samples in each shard; `shard_bytes` (shards,): its size. Shards of which the
    node reads little are left out, and so are those for which the budget has no room while they are in use: their samples
    are read one by one.
    """
    used = np.bincount(shards, weights=sample_bytes, minlength=len(shard_bytes))
    numbers, first = np.unique(shards, return_index=True)
    last = len(shards) - 1 - np.unique(shards[::-1], return_index=True)[1]
    in_turn = np.argsort(first, kind="stable")
    numbers, first, last = numbers[in_turn], times[first[in_turn]], times[last[in_turn]]
    chosen: list[int] = []
    in_use: list[tuple[int, int]] = []  # (last use, size), the earliest end first
    taken = 0
    for entry in np.flatnonzero(used[numbers] > WORTH * all_bytes[numbers]).tolist():
        while in_use and in_use[0][0] < first[entry]:
            taken -= heapq.heappop(in_use)[1]
        size = int(shard_bytes[numbers[entry]])
        if taken + size <= budget:
            heapq.heappush(in_use, (int(last[entry]), size))
            taken += size
            chosen.append(entry)
    rows = np.array(chosen, np.int64)
    return Schedule(numbers[rows].astype(np.int64), shard_bytes[numbers[rows]], first[rows], last[rows], budget)


class FetchAhead(ReadAhead):
    """Copies every `parts`-th shard of a schedule, from the `part`-th on, in background threads, until it is closed."""

    def __init__(
        self, shards: CachedShards, names: Sequence[str], plan: Schedule, part: int, parts: int, threads: int
    ) -> None:
        self._shards = shards
        self._names = names
        self._plan = plan
        self._next, self._parts = part, parts
        self._reached = int(plan.first[0]) if len(plan) else 0
        self._closed = False
        self._changed = threading.Condition()
        shards.scheduled, shards.upcoming = {names[number] for number in plan.shards}, self._upcoming
        # Daemons: a process that ends in mid-epoch does not wait for copies that nobody needs.
        self._threads = [
            threading.Thread(target=self._copy, name=f"fetch-ahead-{k}", daemon=True) for k in range(min(threads, len(plan)))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def reached(self, time: int) -> None:
        """Tells that this process begins to read the samples of this time."""
        with self._changed:
            self._reached = max(self._reached, time)
            self._changed.notify_all()

    def _copy(self) -> None:
        while (entry := self._take()) is not None:
            if self._plan.last[entry] < self._reached:
                continue  # its reader was faster
            shard = self._names[self._plan.shards[entry]]
            try:
                if self._shards.is_cached(shard):
                    self._shards.touch(shard)
                else:
                    self._shards.copy(shard, self._upcoming)
            except OSError as error:
                # The reader of its samples tries again, or reads them one by one.
                level = logging.WARNING if isinstance(error, DamagedShard) else logging.INFO
                _logger.log(level, "%s was not copied ahead: %s", shard, error)

    def _upcoming(self) -> Upcoming:
        """The shards that are not used up, whichever of the node's processes copies them."""
        entries, needed = self._plan.upcoming(self._reached)
        return Upcoming([self._shards.path(self._names[number]) for number in self._plan.shards[entries]], needed)

    def _take(self) -> int | None:
        """The next entry to copy, once there is room for it; None at the end."""
        with self._changed:
            while not self._closed and self._next < len(self._plan):
                entries, needed = self._plan.upcoming(self._reached)
                if needed and self._next <= entries[needed - 1]:
                    self._next += self._parts
                    return self._next - self._parts
                self._changed.wait()
            return None
