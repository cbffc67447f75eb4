"""The store of tar shards, read through their index, from a local folder or from a URL through a node-local cache.

A split is `train-00000.tar`, `train-00001.tar`, ... and `train.index.npz`. Opening ImageNet reads only the index, and
reading a sample is one `pread`. `pipelines.preparation.shard_writer` writes shards and describes the format.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pipelines.layouts.image_files import LeftOut
from pipelines.paths import is_remote
from pipelines.progress import Progress
from pipelines.remote import cache_folder, read_if_exists, size_of
from pipelines.stores.restart_table import CutOut, DamagedTable, cut_out
from pipelines.stores.sample_store import SampleStore
from pipelines.stores.shard_files import CachedShards, ShardFolder
from pipelines.stores.shard_index import ShardIndex


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
        """Reads the header, then the rows of segments around the window at once."""
        starts, ends, size = self.index.header_start, self.index.header_end, self.size(index)
        if starts is None or ends is None or size is None:
            return super().cut_out(index, start, end)
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

    def to_fetch(self) -> dict[str, int]:
        """The shards that are not in this node's cache: URL -> bytes."""
        if not isinstance(self._shards, CachedShards):
            return {}
        return {f"{self._shards.url}/{shard}": size for shard, size in self._shards.missing().items()}

    def prefetch(self, part: int = 0, parts: int = 1, threads: int = 8) -> None:
        """Copies shards from a URL to this node's cache. ValueError if space is too small, OSError if a copy fails."""
        shards = self._shards
        if not isinstance(shards, CachedShards) or not (missing := shards.missing()):
            return
        os.makedirs(shards.folder, exist_ok=True)
        needed, free = sum(missing.values()), shutil.disk_usage(shards.folder).free
        if needed > free:
            raise ValueError(
                f"{shards.url}: {needed / 1e9:.1f} GB must be copied to {shards.folder}, where {free / 1e9:.1f} GB are "
                "free; VGG_DIST_CACHE can name another folder"
            )
        # Shares are of all shards, not of the missing ones, because other processes may have copied some already.
        share = [shard for shard in list(shards.sizes)[part::parts] if shard in missing]
        bar = Progress(
            desc=f"copying {shards.url}",
            total=sum(missing[shard] for shard in share),
            unit="B",
            unit_scale=True,
            disable=part > 0,  # one bar for all processes
        )
        with bar, ThreadPoolExecutor(threads) as pool:
            for shard, _ in zip(share, pool.map(shards.path, share), strict=True):
                bar.update(missing[shard])


def open_shards(location: str, splits: Sequence[str], *, cache: str | None = None) -> ShardStore | None:
    """The first of `splits` that has an index at `location`, an absolute path or a URL; None if none has.

    Raises ValueError, one line, if the index is damaged or does not match its shards.
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
        folder = cache_folder(cache) / f"{location.rpartition('/')[2]}-{split}-{key}"
        return ShardStore(index, CachedShards(str(folder), location, sizes))
    return None


def _check_sizes(folder: str, sizes: dict[str, int]) -> None:
    for shard, size in sizes.items():
        found = size_of(os.path.join(folder, shard))
        if found < 0:
            raise ValueError(f"{folder}/{shard} is missing, but the index lists it")
        if found != size:
            raise ValueError(f"{folder}/{shard} has {found} bytes, but the index says {size}: truncated or replaced")
