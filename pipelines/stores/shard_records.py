"""The checksums of all records of a split's shards, by which the bytes of a shard are checked.

A store may have some of the samples only, but a copied shard is used by every process of a node, whatever samples it leaves
out. So these are all records of the index. A pickle of them is small: another process reads the index again, and only once
it has something to check.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib

import numpy as np
from numpy.typing import NDArray

from pipelines.remote import read_if_exists
from pipelines.stores.shard_index import ShardIndex


class ShardRecords:
    """All records of the index at `where`, a path or URL; `digest`: SHA-256 of that file; `index`: its content, if read."""

    def __init__(self, where: str, digest: str, index: ShardIndex | None = None) -> None:
        self._where = where
        self._digest = digest
        self._lock = threading.Lock()
        self._table = None if index is None else _Table(index)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._where, self._digest)

    def damaged(self, path: str, shard: str) -> list[str]:
        """The names of a shard's samples whose bytes in the file `path` do not match their checksums."""
        table = self._read()
        if table.index.checksum is None:
            return []
        rows = table.rows(shard)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            wrong = [row for row in range(rows.start, rows.stop) if not table.matches(row, descriptor)]
        finally:
            os.close(descriptor)
        return [f"{shard}:{table.index.names[row]}" for row in wrong]

    def checksum(self, shard: str, length: int, offset: int) -> int | None:
        """The CRC-32 of the record that has exactly these bytes of a shard; None for other bytes, or without checksums."""
        table = self._read()
        if table.index.checksum is None:
            return None
        rows = table.rows(shard)
        row = rows.start + int(np.searchsorted(table.index.offset[rows.start : rows.stop], offset))
        if row == rows.stop or table.index.offset[row] != offset or table.index.length[row] != length:
            return None
        return int(table.index.checksum[row])

    def _read(self) -> _Table:
        with self._lock:
            if self._table is None:
                try:
                    raw = read_if_exists(self._where)
                except ValueError as error:
                    raise OSError(str(error)) from error
                if raw is None or index_digest(raw) != self._digest:
                    raise OSError(f"{self._where} was replaced while it was in use: start again")
                self._table = _Table(ShardIndex.from_bytes(raw, self._where))
            return self._table


class _Table:
    """An index in the order of shards and offsets, and where the records of each shard begin."""

    def __init__(self, index: ShardIndex) -> None:
        in_order = np.lexsort((index.offset, index.shard))
        sorted_already = bool((np.diff(in_order) == 1).all())
        self.index = index if sorted_already else index.take(in_order)
        self._numbers = {name: number for number, name in enumerate(index.shard_names)}
        self._starts: NDArray[np.int64] = np.searchsorted(self.index.shard, np.arange(len(index.shard_names) + 1))

    def rows(self, shard: str) -> range:
        number = self._numbers[shard]
        return range(int(self._starts[number]), int(self._starts[number + 1]))

    def matches(self, row: int, descriptor: int) -> bool:
        assert self.index.checksum is not None
        content = os.pread(descriptor, int(self.index.length[row]), int(self.index.offset[row]))
        return zlib.crc32(content) == self.index.checksum[row]


def index_digest(raw: bytes) -> str:
    """64 hexadecimal digits of an index file's content."""
    return hashlib.sha256(raw).hexdigest()
