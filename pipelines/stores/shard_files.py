"""The tar files of a split's shards: in a local folder, or behind a URL, copied to a cache that a node's processes share."""

from __future__ import annotations

import os
import resource
import threading

from pipelines.remote import fetch, size_of


class ShardFolder:
    """The tars of a local folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}
        # Descriptors stay open, so that no thread loses the one that it reads from. Beyond this many, a shard is opened for
        # each read. It is a quarter of the limit, because two stores may be open, and other code needs descriptors, too.
        self._max_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def path(self, shard: str) -> str:
        """The local path of a shard."""
        return os.path.join(self.folder, shard)

    def pread(self, shard: str, length: int, offset: int) -> bytes:
        """`length` bytes of a shard from `offset`, or fewer if the file ends earlier. Thread-safe."""
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            path = self.path(shard)
            with self._lock:
                descriptor = self._descriptors.get(shard)
                if descriptor is None and len(self._descriptors) < self._max_open:
                    descriptor = self._descriptors[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if descriptor is None:
                with open(path, "rb", buffering=0) as file:
                    return os.pread(file.fileno(), length, offset)
        return os.pread(descriptor, length, offset)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.folder,)

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class CachedShards(ShardFolder):
    """The tars behind a URL. A whole shard is copied to the cache on its first read, once for all processes of the node."""

    def __init__(self, folder: str, url: str, sizes: dict[str, int]) -> None:
        super().__init__(folder)
        self.url = url
        self.sizes = sizes

    def path(self, shard: str) -> str:
        """The path of the shard in the cache; copies it there if necessary. Raises OSError if that fails."""
        path = super().path(shard)
        fetch(f"{self.url}/{shard}", path, self.sizes[shard])
        return path

    def missing(self) -> dict[str, int]:
        """The shards that are not in the cache: name -> bytes."""
        return {shard: size for shard, size in self.sizes.items() if size_of(os.path.join(self.folder, shard)) != size}

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.folder, self.url, self.sizes)
