"""The tar files of a split's shards in a local folder. `pipelines.stores.cached_shards` has those behind a URL."""

from __future__ import annotations

import os
import resource
import threading


class OpenFile:
    """A descriptor that is closed once nothing refers to this object, so no thread loses the file that it reads from."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class ShardFolder:
    """The tars of a local folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._kept: dict[str, OpenFile] = {}
        # A quarter of the limit, because two stores may be open, and other code needs descriptors, too.
        self._max_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def pread(self, shard: str, length: int, offset: int) -> bytes:
        """`length` bytes of a shard from `offset`, or fewer if the file ends earlier. Thread-safe."""
        file = self._open(shard)  # in a variable: the file may be closed as soon as nothing refers to it
        return os.pread(file.descriptor, length, offset)

    def reads_singly(self, shard: str) -> bool:
        """Whether each read of this shard is a request to a storage, so that one large read is better than two small."""
        return False

    def path(self, shard: str) -> str:
        """The local path of a shard."""
        return os.path.join(self.folder, shard)

    def _open(self, shard: str) -> OpenFile:
        """A shard, opened; it stays open for later reads. FileNotFoundError if it is not there."""
        kept = self._kept.get(shard)
        if kept is not None:
            return kept
        with self._lock:
            if shard not in self._kept:
                file = OpenFile(os.open(self.path(shard), os.O_RDONLY | os.O_CLOEXEC))
                if self._kept and len(self._kept) >= self._max_open:
                    del self._kept[next(iter(self._kept))]  # the one that was opened first
                self._kept[shard] = file
            return self._kept[shard]

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.folder,)
