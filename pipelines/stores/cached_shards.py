"""The tar files of a split's shards behind a URL: read from the node's cache, or else in parts directly from the URL.

A shard that is missing in the cache is copied whole when that pays: while all shards of the split fit, or when a schedule
(`pipelines.stores.fetch_ahead`) says that this node reads most of it soon. Otherwise one read fetches just its bytes:
copying 256 MB for each image of 110 kB that a full shuffle asks for would move 2,000 times as many bytes.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Collection

from pipelines.remote import read_range, size_of
from pipelines.stores.eviction import UpcomingNow, nothing_upcoming
from pipelines.stores.node_cache import CacheFull, DamagedShard, NodeCache
from pipelines.stores.shard_files import OpenFile, ShardFolder
from pipelines.stores.shard_records import ShardRecords

_logger = logging.getLogger(__name__)

SWEEP_SHARE = 16  # evicted files are closed when a sixteenth as many have been opened as are open


class CachedShards(ShardFolder):
    """The tars at `url`, of these sizes in bytes, which are copied into `folder` in the node's `cache`."""

    def __init__(self, folder: str, url: str, sizes: dict[str, int], records: ShardRecords, cache: NodeCache) -> None:
        super().__init__(folder)
        self.url = url
        self.sizes = sizes
        self.records = records
        self.cache = cache
        self.scheduled: Collection[str] | None = None
        """The shards that are copied whole when they are missing; None: all of them, if they all fit into the cache."""
        self.upcoming: UpcomingNow = nothing_upcoming
        """Those of them that are still to be read."""
        self._opened_at = time.time()
        self._fits: bool | None = None
        self._in_parts: set[str] = set()  # shards that could not be copied
        self._said = False
        self._opened = 0

    def pread(self, shard: str, length: int, offset: int) -> bytes:
        """As ShardFolder's, from the cache or the URL. Raises OSError, one line, also if a record's checksum is wrong."""
        file = self._find(shard)
        if file is None:
            return self._read_part(shard, length, offset)
        return os.pread(file.descriptor, length, offset)

    def reads_singly(self, shard: str) -> bool:
        """As ShardFolder's: whether the shard is not in the cache, and is not to be copied there."""
        return self._find(shard) is None

    def is_cached(self, shard: str) -> bool:
        """Whether the shard is in the cache."""
        return size_of(self.path(shard)) == self.sizes[shard]

    def missing(self) -> dict[str, int]:
        """The shards that are not in the cache: name -> bytes."""
        return {shard: size for shard, size in self.sizes.items() if not self.is_cached(shard)}

    def fill(self, shard: str) -> None:
        """Copies a shard into the cache without removing what was used since this data set was opened. Raises as `copy`."""
        self._fetch(shard, unused_since=self._opened_at)

    def copy(self, shard: str, upcoming: UpcomingNow = nothing_upcoming) -> None:
        """Copies a shard into the cache, if it is missing there. `upcoming`: see `choose_evictions`.

        Raises CacheFull, DamagedShard, or OSError if the copy fails.
        """
        self._fetch(shard, upcoming)

    def touch(self, shard: str) -> None:
        """Marks a shard in the cache as used now."""
        try:
            os.utime(self.path(shard))
        except OSError:  # it was removed, or belongs to another user
            return

    def copy_again_if_damaged(self, shard: str) -> bool:
        """Copies a shard again if its copy in the cache has damaged samples; returns whether it had.

        If it is damaged at the URL, too, or there is no room, its samples are read one by one from there. Raises OSError if
        the copy fails.
        """
        if not self.is_cached(shard):
            return False
        url, path, size = f"{self.url}/{shard}", self.path(shard), self.sizes[shard]
        try:
            return self.cache.replace_damaged(url, path, size, lambda path: self.records.damaged(path, shard))
        except (CacheFull, DamagedShard):
            self._in_parts.add(shard)
            return False
        finally:
            self._kept.pop(shard, None)

    def _fetch(self, shard: str, upcoming: UpcomingNow = nothing_upcoming, unused_since: float = float("inf")) -> None:
        url, path, size = f"{self.url}/{shard}", self.path(shard), self.sizes[shard]
        try:
            self.cache.fetch(url, path, size, lambda path: self.records.damaged(path, shard), upcoming, unused_since)
        except DamagedShard:
            self._in_parts.add(shard)  # do not copy it twice for each of its samples
            raise

    def _find(self, shard: str) -> OpenFile | None:
        """A shard in the cache, opened, after copying it there if that is due; None if it is to be read from the URL."""
        kept = self._kept.get(shard)
        if kept is not None:
            return kept
        for _ in range(3):  # another process may evict a shard before it is opened
            if not self.is_cached(shard) and not self._copied(shard):
                return None
            try:
                file = self._open(shard)
            except FileNotFoundError:
                continue
            self.touch(shard)
            self._close_evicted()
            return file
        return None

    def _copied(self, shard: str) -> bool:
        """Copies a shard if it is to be copied whole; returns whether it was copied."""
        if shard in self._in_parts or not self._is_copied_whole(shard):
            return False
        try:
            try:
                self.copy(shard, self.upcoming)
            except CacheFull:
                self.copy(shard)
        except (CacheFull, DamagedShard) as error:
            self._in_parts.add(shard)
            if isinstance(error, DamagedShard) or not self._said:
                _logger.warning("%s; its samples are read one by one from %s", error, self.url)
            self._said = True
            return False
        return True

    def _is_copied_whole(self, shard: str) -> bool:
        if self.scheduled is not None:
            return shard in self.scheduled
        if self._fits is None:
            self._fits = sum(self.sizes.values()) <= self.cache.capacity()
        return self._fits

    def _read_part(self, shard: str, length: int, offset: int) -> bytes:
        checksum = self.records.checksum(shard, length, offset)
        for _ in range(2):
            content = read_range(f"{self.url}/{shard}", offset, offset + length)
            if checksum is None or len(content) != length or zlib.crc32(content) == checksum:
                return content
        raise OSError(
            f"the bytes in {self.url}/{shard} do not match the checksum: upload the shard again, or let"
            " python -m pipelines.prepare check list the sample as unreadable"
        )

    def _close_evicted(self) -> None:
        """Closes files that were removed from the cache, because their space is free only then."""
        with self._lock:
            self._opened += 1
            if self._opened * SWEEP_SHARE < len(self._kept):
                return
            self._opened = 0
            for shard, file in list(self._kept.items()):
                if os.fstat(file.descriptor).st_nlink == 0:
                    del self._kept[shard]

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.folder, self.url, self.sizes, self.records, self.cache)
