"""`benchmark cache`: what a node fetches from a URL and how long it waits, with shards that do not fit its cache. Simulated.

Simulated are the storage, the cache's disk and the clock. The order of the images (`EpochPlan`), what is copied and when
(`schedule`, `Schedule.upcoming`, `pays_to_copy`) and what is evicted (`choose_evictions`) are what a training runs. One node
of the cluster is followed. Each image stands for 20, and each step for 16, so that ten terabytes take seconds; there are as
many shards, of the same size, as in the data. The coarser the images, the more of them seem to be read one by one.

The model of the storage: a node's reads share one link of so many bytes/s and requests/s. Images that are read one by one
are asked for one step ahead of training; copies of shards have what these leave of the link.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.stores.eviction import NOTHING, Copy, Upcoming, choose_evictions
from pipelines.stores.fetch_ahead import Schedule, schedule
from vgg_dist.benchmark.options import CacheBenchmark
from vgg_dist.benchmark.report import table, write_json
from vgg_dist.worker.copy_progress import pays_to_copy

IMAGES = 20  # that a simulated image stands for
STEPS = 16  # that a simulated step stands for
HEADINGS = "shuffle", "cache", "epoch", "GB fetched", "from cache", "one by one", "stalls, s", "time, s"


@dataclass(frozen=True)
class EpochResult:
    """An epoch of one node. `from_cache`, `single`: shares of its images, the latter of those read one by one.

    The others were in shards that were being copied when the images were due. Epoch 0 is the copying before training.
    """

    shuffle: str
    cache: str
    epoch: int
    bytes_fetched: float
    from_cache: float
    single: float
    stalls_s: float
    seconds: float

    def row(self) -> list[str]:
        """The cells of the table."""
        shares = ["", ""] if self.epoch == 0 else [f"{100 * share:.1f} %" for share in (self.from_cache, self.single)]
        seconds = [f"{value:,.0f}" for value in (self.stalls_s, self.seconds)]
        return [self.shuffle, self.cache, str(self.epoch or "before"), f"{self.bytes_fetched / 1e9:,.1f}", *shares, *seconds]


class SimulatedCache:
    """The shards that a node has: number -> size and time of last use."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.copies: dict[int, Copy] = {}
        self.taken = 0

    def add(self, shard: int, size: int, now: float, upcoming: Upcoming = NOTHING) -> bool:
        """Makes room as a node's cache does, and adds a shard; whether there is room."""
        if (excess := self.taken + size - self.capacity) > 0:
            evicted = choose_evictions(self.copies.values(), excess, upcoming)
            if evicted is None:
                return False
            for copy in evicted:
                self.taken -= self.copies.pop(int(copy.path)).size
        self.copies[shard] = Copy(str(shard), size, now)
        self.taken += size
        return True


class Link:
    """A node's way to the storage. `now`: until when it is used; `pending`: the copies to make, shard -> seconds left."""

    def __init__(self, options: CacheBenchmark) -> None:
        self.bandwidth = options.bandwidth * 1e9
        self.requests = options.requests_per_second / options.nodes
        self.now = 0.0
        self.pending: OrderedDict[int, float] = OrderedDict()
        self.bytes_fetched = 0.0

    def seconds(self, size: float, requests: float) -> float:
        """How long the link takes for so many bytes and requests."""
        return max(size / self.bandwidth, requests / self.requests)

    def read(self, size: float, requests: float) -> None:
        """Reads images one by one."""
        self.now += self.seconds(size, requests)
        self.bytes_fetched += size

    def idle_until(self, time: float) -> Iterator[int]:
        """Copies pending shards in turn until `time`; yields those that are complete."""
        while self.pending and self.now < time:
            shard, left = next(iter(self.pending.items()))
            spent = min(left, time - self.now)
            self.now += spent
            self.pending[shard] = left - spent
            if left <= spent:
                del self.pending[shard]
                yield shard
        self.now = max(self.now, time)

    def finish(self, shard: int) -> None:
        """Completes the copy of a pending shard at once, as a reader does that needs it."""
        self.now += self.pending.pop(shard)


@dataclass(frozen=True)
class DataSet:
    """The shard of each simulated image, ascending; bytes of an image, and of each shard."""

    shards: NDArray[np.int64]
    image_bytes: int
    shard_bytes: NDArray[np.int64]

    @classmethod
    def of(cls, options: CacheBenchmark) -> DataSet:
        """As large as the options say."""
        count = round(options.data_tb * 1e12 / (options.shard_mb * 1e6))
        images = int(options.data_tb * 1e12 / (options.image_kb * 1e3 * IMAGES))
        shards = np.arange(images) * count // images
        return cls(shards, round(options.image_kb * 1e3) * IMAGES, np.full(count, round(options.shard_mb * 1e6), np.int64))


class Node:
    """The node in the middle of the cluster."""

    def __init__(self, options: CacheBenchmark, data: DataSet, capacity: int) -> None:
        self.options = options
        self.data = data
        self.cache = SimulatedCache(capacity)
        self.link = Link(options)
        self.plan: Schedule | None = None
        self.next = 0
        self.reached = 0

    def fill(self) -> None:
        """Copies as many shards as fit before training, where a training with a full shuffle does."""
        total = int(self.data.shard_bytes.sum())
        if not pays_to_copy(total, self.cache.capacity, self.options.nodes, self.options.epochs):
            return
        for shard, size in enumerate(self.data.shard_bytes.tolist()):
            if self.cache.taken + size > self.cache.capacity:
                break
            self.cache.add(shard, size, self.link.now)
            self.link.read(size, 1)

    def train(self, samples: NDArray[np.int64], ends: NDArray[np.int64], ahead: bool) -> tuple[float, float, float, float]:
        """Trains an epoch. Returns the shares of images from the cache and read singly, seconds of stalls and in all."""
        shards, data = self.data.shards[samples], self.data
        if ahead:
            sizes = np.full(len(shards), data.image_bytes)
            all_bytes = np.bincount(data.shards, minlength=len(data.shard_bytes)) * data.image_bytes
            self.plan = schedule(shards, ends, sizes, all_bytes, data.shard_bytes, self.cache.capacity)
            self.next = 0
        scheduled = set() if self.plan is None else set(self.plan.shards.tolist())
        rate = self.options.gpus * self.options.images_per_second
        issued = start = free = self.link.now
        began, stalls, hits, singles = start, 0.0, 0, 0
        cuts = np.flatnonzero(np.diff(ends)) + 1
        for step, end in zip(np.split(shards, cuts), ends[[*(cuts - 1), -1]].tolist(), strict=True):
            for shard in self.link.idle_until(issued):
                self._copied(shard)
            self._copy_ahead(end)
            for shard in step.tolist():
                if shard in self.cache.copies and shard not in self.link.pending:
                    hits += 1
                elif shard in scheduled and (shard in self.link.pending or self._begin(shard)):
                    self.link.finish(shard)
                    self._copied(shard)
                else:
                    singles += 1
                    self.link.read(data.image_bytes, IMAGES)
            ready = self.link.now + self.options.latency_ms / 1e3
            start = max(free, ready)
            stalls += start - free
            issued, free = start, start + len(step) * IMAGES / rate
        for shard in self.link.idle_until(free):
            self._copied(shard)
        return hits / len(shards), singles / len(shards), stalls, free - began

    def _copy_ahead(self, reached: int) -> None:
        """Begins the copies for which there is room once the samples before `reached` are used."""
        self.reached = reached
        if self.plan is None:
            return
        entries, needed = self.plan.upcoming(reached)
        while needed and self.next <= entries[needed - 1]:
            shard = int(self.plan.shards[self.next])
            self.next += 1
            if shard in self.cache.copies:
                self._copied(shard)
            else:
                self._begin(shard)

    def _begin(self, shard: int) -> bool:
        """Reserves room for a shard, and begins to copy it."""
        assert self.plan is not None
        entries, needed = self.plan.upcoming(self.reached)
        upcoming = Upcoming([str(shard) for shard in self.plan.shards[entries]], needed)
        size = int(self.data.shard_bytes[shard])
        if not self.cache.add(shard, size, self.link.now, upcoming):
            return False
        self.link.pending[shard] = self.link.seconds(size, 1)
        self.link.bytes_fetched += size
        return True

    def _copied(self, shard: int) -> None:
        """Marks a shard as used now."""
        if shard in self.cache.copies:
            self.cache.copies[shard] = Copy(str(shard), int(self.data.shard_bytes[shard]), self.link.now)


def simulate(options: CacheBenchmark) -> list[EpochResult]:
    """All epochs with each order and size of the cache."""
    data, found = DataSet.of(options), []
    sizes = options.cache_sizes(int(data.shard_bytes.sum()))
    batch = options.nodes * max(1, options.global_batch * STEPS // (IMAGES * options.nodes))  # equally many for each node
    ranks = range(options.nodes // 2, options.nodes // 2 + 1)
    for shuffle in options.shuffles:
        nodes = {name: Node(options, data, capacity) for name, capacity in sizes.items()}
        for name, node in nodes.items():
            if shuffle == "full":
                node.fill()
            if node.link.bytes_fetched:
                found.append(EpochResult(shuffle, name, 0, node.link.bytes_fetched, 0, 0, node.link.now, node.link.now))
        for epoch in range(2):
            order = EpochPlan(len(data.shards), 0, epoch, Augmentation(), data.shards if shuffle == "blocks" else None)
            samples, ends = order.node_samples(0, batch, ranks, options.nodes)
            for name, node in nodes.items():
                before = node.link.bytes_fetched
                result = node.train(samples, ends, ahead=shuffle == "blocks")
                found.append(EpochResult(shuffle, name, epoch + 1, node.link.bytes_fetched - before, *result))
    names = list(sizes)
    return sorted(found, key=lambda result: (options.shuffles.index(result.shuffle), names.index(result.cache)))


def run_cache(options: CacheBenchmark) -> None:
    """Simulates, prints and saves."""
    results = simulate(options)
    print(
        f"{options.data_tb:g} TB in shards of {options.shard_mb:g} MB, images of {options.image_kb:g} kB;"
        f" {options.nodes} nodes of {options.gpus} GPUs, each {options.images_per_second:g} images/s\n"
        f"storage: {options.bandwidth:g} GB/s to each node, {options.requests_per_second:,.0f} requests/s in all,"
        f" latency {options.latency_ms:g} ms\n"
        f"figures are of one node; an image stands for {IMAGES}, a step for {STEPS}\n"
    )
    print(table(HEADINGS, [result.row() for result in results]))
    if options.json is not None:
        write_json(options.json, options, {"epochs": [asdict(result) for result in results]})
