"""The store of tar shards, read through their index, from a local folder or from a URL through a node-local cache.

A split is `train-00000.tar`, `train-00001.tar`, ... and `train.index.npz`. Opening ImageNet reads only the index, and
reading a sample is one `pread`. `pipelines.preparation.shard_writer` writes shards and describes the format.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from pipelines.layouts.image_files import LeftOut
from pipelines.paths import is_remote
from pipelines.progress import Progress
from pipelines.remote import cache_folder, cache_limit, read_if_exists, size_of
from pipelines.stores.cached_shards import CachedShards
from pipelines.stores.fetch_ahead import FetchAhead, schedule
from pipelines.stores.node_cache import CacheFull, DamagedShard, NodeCache
from pipelines.stores.restart_table import CutOut, DamagedTable, cut_out, cut_out_of
from pipelines.stores.sample_store import CacheUse, ReadAhead, SampleStore
from pipelines.stores.shard_files import ShardFolder
from pipelines.stores.shard_index import ShardIndex
from pipelines.stores.shard_records import ShardRecords, index_digest


class ShardStore(SampleStore):
    """The samples of one split's shards."""

    def __init__(self, index: ShardIndex, shards: ShardFolder, left_out: LeftOut | None = None) -> None:
        self.index = index
        self.left_out = left_out or LeftOut()
        self.labels = index.label
        self.class_names = index.class_names
        self._shards = shards

    def read(self, index: int) -> bytes:
        """The encoded image. Raises OSError with the sample's name if the shard cannot be read or ends too early."""
        return self._read(index, 0, self.length(index))

    def _read(self, index: int, start: int, length: int) -> bytes:
        """`length` bytes of an encoded image from byte `start`."""
        shard, offset = self.index.shard_names[self.index.shard[index]], int(self.index.offset[index]) + start
        try:
            read = self._shards.pread(shard, length, offset)
        except OSError as error:
            raise OSError(f"{self.name(index)}: {error}") from error
        if len(read) != length:
            raise OSError(f"{self.name(index)}: only {len(read)} of {length} bytes: the shard is truncated")
        return read

    def can_cut_out(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which samples have a restart table."""
        ends = self.index.header_end
        return super().can_cut_out(indices) if ends is None else ends[indices] > 0

    def cut_out(self, index: int, start: tuple[int, int], end: tuple[int, int]) -> CutOut:
        """Reads the header, then the rows of segments around the window at once; behind a URL, the whole image at once."""
        starts, ends, size = self.index.header_start, self.index.header_end, self.size(index)
        if starts is None or ends is None or size is None:
            return super().cut_out(index, start, end)
        if self._shards.reads_singly(self.index.shard_names[self.index.shard[index]]):
            return cut_out_of(self.read(index), size, start, end)
        begin, scan = int(starts[index]), int(ends[index])
        if scan > (length := self.length(index)):
            raise DamagedTable("the restart table is of another image")
        header = self._read(index, begin, scan - begin)

        def read(at: int, count: int) -> bytes:
            if scan + at + count > length:
                raise DamagedTable("the restart table reaches beyond the image")
            return self._read(index, scan + at, count)

        return cut_out(header, size, start, end, read)

    def length(self, index: int) -> int:
        """Size in bytes, from the index."""
        return int(self.index.length[index])

    def name(self, index: int) -> str:
        """For example `train-00003.tar:n01440764/x.jpg`."""
        return f"{self.index.shard_names[self.index.shard[index]]}:{self.index.names[index]}"

    def size(self, index: int) -> tuple[int, int] | None:
        """(height, width) from the index; None for an image that was unreadable when the shards were written."""
        height, width = int(self.index.height[index]), int(self.index.width[index])
        return (height, width) if height else None

    def subset(self, indices: np.ndarray) -> ShardStore:
        """The samples at `indices`."""
        return ShardStore(self.index.take(indices), self._shards, self.left_out)

    def find(self, names: Set[str]) -> np.ndarray:
        """Indices of the samples with these names."""
        members = {name.partition(":")[2] for name in names}
        found = [i for i, member in enumerate(self.index.names) if member in members and self.name(i) in names]
        return np.array(found, dtype=np.int64)

    def check_bytes(self, index: int) -> str:
        """Compares a sample's bytes with its checksum, if the index has one.

        A damaged copy in the node's cache is replaced; the line about that is returned by the first call that finds it,
        otherwise "". Raises OSError, one line that names the shard, if the bytes are damaged where the shards come from.
        """
        shard, replaced = self.index.shard_names[self.index.shard[index]], False
        if not self._matches(index) and isinstance(self._shards, CachedShards):
            try:
                replaced = self._shards.copy_again_if_damaged(shard)
            except OSError as error:
                raise OSError(f"{self.name(index)}: {error}") from error
        if not self._matches(index):
            raise OSError(f"{self.name(index)}: checksum does not match: {self._shards.path(shard)} is damaged")
        return f"{self._shards.path(shard)} did not match its checksums and was copied again" if replaced else ""

    def _matches(self, index: int) -> bool:
        if self.index.checksum is None:
            return True
        shard, offset = self.index.shard_names[self.index.shard[index]], int(self.index.offset[index])
        try:
            content = self._shards.pread(shard, self.length(index), offset)
        except OSError as error:
            raise OSError(f"{self.name(index)}: {error}") from error
        return zlib.crc32(content) == self.index.checksum[index]

    def to_fetch(self) -> dict[str, int]:
        """The shards that are not in this node's cache: URL -> bytes."""
        if not isinstance(self._shards, CachedShards):
            return {}
        return {f"{self._shards.url}/{shard}": size for shard, size in self._shards.missing().items()}

    def cache_use(self) -> CacheUse | None:
        """How much of the shards is in this node's cache; None for local shards."""
        shards = self._shards
        if not isinstance(shards, CachedShards):
            return None
        total, missing, cache = sum(shards.sizes.values()), sum(shards.missing().values()), shards.cache
        return CacheUse(total, total - missing, cache.capacity(), cache.describe())

    def shards(self) -> NDArray[np.int32]:
        """The number of the shard that each sample is in, (N,)."""
        return self.index.shard

    def fetch_ahead(
        self, indices: NDArray[np.int64], times: NDArray[np.int64], part: int = 0, parts: int = 1, threads: int = 4
    ) -> AbstractContextManager[ReadAhead]:
        """As SampleStore's: shards that this node reads most of are copied, as far ahead as the cache has room."""
        shards, index = self._shards, self.index
        if not isinstance(shards, CachedShards):
            return nullcontext(ReadAhead())
        all_bytes = np.bincount(index.shard, weights=index.length, minlength=len(index.shard_names))
        plan = schedule(
            index.shard[indices], times, index.length[indices], all_bytes, index.shard_bytes, shards.cache.capacity()
        )
        return FetchAhead(shards, index.shard_names, plan, part, parts, threads)

    def open_cache(self) -> None:
        """Creates this split's folder in the node's cache. Raises ValueError, one line, if it cannot be written."""
        if isinstance(self._shards, CachedShards):
            try:
                self._shards.cache.open_folder(self._shards.folder)
            except OSError as error:
                raise ValueError(str(error)) from error

    def stop_copying(self) -> None:
        """From now on, samples of shards that are not in the node's cache are read one by one from the URL."""
        if isinstance(self._shards, CachedShards):
            self._shards.scheduled = ()

    def prefetch(self, part: int = 0, parts: int = 1, threads: int = 8) -> None:
        """Copies as many shards from a URL as fit into this node's cache. Raises OSError, one line, if a copy fails.

        A shard that is damaged on the storage is an error unless its damaged samples are left out of this store; it is then
        not copied.
        """
        shards = self._shards
        if not isinstance(shards, CachedShards):
            return
        missing = shards.missing()
        for shard in shards.sizes:
            if shard not in missing:
                shards.touch(shard)
        # Shares are of all shards, not of the missing ones, because other processes may have copied some already.
        share = [shard for shard in list(shards.sizes)[part::parts] if shard in missing]
        full = threading.Event()

        def copy(shard: str) -> None:
            if full.is_set():
                return
            try:
                shards.fill(shard)
            except CacheFull:
                full.set()
            except DamagedShard as error:
                if len(self.find(set(error.samples))):
                    raise

        if not share:
            return
        bar = Progress(
            desc=f"copying {shards.url}",
            total=sum(missing[shard] for shard in share),
            unit="B",
            unit_scale=True,
            disable=part > 0,  # one bar for all processes
        )
        with bar, ThreadPoolExecutor(threads) as pool:
            for shard, _ in zip(share, pool.map(copy, share), strict=True):
                if not full.is_set():
                    bar.update(missing[shard])


def open_shards(location: str, splits: Sequence[str], *, cache: str | None = None) -> ShardStore | None:
    """The first of `splits` that has an index at `location`, an absolute path or a URL; None if none has.

    Raises ValueError, one line, if the index is damaged or does not match its shards, or VGG_DIST_CACHE_SIZE is no size.
    """
    location = location.rstrip("/")
    for split in splits:
        where = f"{location}/{split}.index.npz"
        raw = read_if_exists(where)
        if raw is None:
            continue
        index = ShardIndex.from_bytes(raw, where)
        sizes = dict(zip(index.shard_names, index.shard_bytes.tolist(), strict=True))
        if not is_remote(location):
            _check_sizes(location, sizes)
            return ShardStore(index, ShardFolder(location))
        # The folder's name depends on the index, because the shards at a URL may be replaced by others.
        key = hashlib.sha256(location.encode() + raw).hexdigest()[:16]
        root = cache_folder(cache)
        folder = root / f"{location.rpartition('/')[2]}-{split}-{key}"
        records = ShardRecords(where, index_digest(raw), index)
        node_cache = NodeCache(str(root), cache_limit())
        return ShardStore(index, CachedShards(str(folder), location, sizes, records, node_cache))
    return None


def _check_sizes(folder: str, sizes: dict[str, int]) -> None:
    for shard, size in sizes.items():
        found = size_of(os.path.join(folder, shard))
        if found < 0:
            raise ValueError(f"{folder}/{shard} is missing, but the index lists it")
        if found != size:
            raise ValueError(f"{folder}/{shard} has {found} bytes, but the index says {size}: truncated or replaced")
