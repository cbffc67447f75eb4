"""The copies of remote shards that a node keeps: one folder, shared by its processes, of bounded size.

The folder has a subfolder for each split of each data set, `<name>-<split>-<16 hexadecimal digits>/`, and in it the shards.
To make room, those shards are removed that have not been used for the longest time, of any data set. A shard counts as used
when it is copied, when a process opens it, and when the schedule of an epoch lists it; that time is the file's modification
time. The time of copying alone would remove what each epoch uses, and keep what a forgotten data set left. Shards that the
epoch will still use go last (`pipelines.stores.eviction`).

A shard may be removed while processes read it: on Linux an open file can be read after it has been removed, and its space
is free when the last of them has closed it (`pipelines.stores.cached_shards` does so soon). A process that is killed leaves
a `.part` file, which the next one that needs room removes, and locks, which the kernel releases.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.remote import CACHE_SIZE, DISK_FULL, cache_limit, copy_file, size_of, size_text
from pipelines.stores.eviction import Copy, UpcomingNow, choose_evictions, nothing_upcoming

GIB = 2**30
SUBFOLDER = re.compile(r".+-(?:train|val|test)-[0-9a-f]{16}")
PART = re.compile(r"(.+)\.(\d+)\.part")
UNDER_WAY = 64  # copies that a node may make at the same time

Check = Callable[[str], list[str]]
"""The names of the damaged samples in a copied shard, from its path."""


class CacheFull(OSError):
    """A shard does not fit into the cache. One line."""


class DamagedShard(OSError):
    """A shard is damaged on the storage. One line that names its URL, a sample, and what to do.

    `samples`: the names of all its damaged samples.
    """

    def __init__(self, message: str, samples: Sequence[str]) -> None:
        super().__init__(message)
        self.samples = samples


class NodeCache:
    """The shards in the folder `root`, at most `limit` bytes of them; None: as much as the disk has room for."""

    def __init__(self, root: str, limit: int | None) -> None:
        self.root = root
        self.limit = limit

    def __reduce__(self) -> tuple[object, ...]:
        return _open_cache, (self.root,)  # a process of another node has a limit of its own

    def capacity(self) -> int:
        """Bytes of shards that the cache can hold, those that are there included."""
        disk = self._on_disk()
        return disk if self.limit is None else min(disk, self.limit)

    def describe(self) -> str:
        """What bounds the cache, for messages."""
        disk = self._on_disk()
        if self.limit is None or disk < self.limit:
            return f"the disk of {self.root} has room for {size_text(disk)}"
        return f"{CACHE_SIZE} is {size_text(self.limit)}, in {self.root}"

    def open_folder(self, folder: str) -> None:
        """Creates a folder for shards. Raises OSError, one line, if it cannot be written."""
        if self.limit == 0:
            return
        try:
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError("permission denied")
        except OSError as error:
            why = error.strerror or error
            raise OSError(f"{folder} cannot be written ({why}); VGG_DIST_CACHE can name another folder") from error

    def fetch(
        self,
        url: str,
        path: str,
        size: int,
        check: Check | None = None,
        upcoming: UpcomingNow = nothing_upcoming,
        unused_since: float = float("inf"),
    ) -> None:
        """Copies the shard at `url` to `path`, which is in the cache, unless it is there already.

        Several processes and threads may ask for it at once: one copies, the others wait. A copy with damaged samples is
        made again once. `upcoming`, which is called when room is made, and `unused_since`: see `choose_evictions`. Raises
        CacheFull, DamagedShard, or OSError, one line, if the copy fails or has another size.
        """
        if size_of(path) == size:
            return
        if self.limit is not None and size > self.limit:
            raise CacheFull(f"{path} does not fit: {self.describe()}")
        self.open_folder(os.path.dirname(path))
        with FileLock(f"{path}.lock"):
            if size_of(path) != size:
                self._copy(url, path, size, check, upcoming, unused_since)

    def replace_damaged(self, url: str, path: str, size: int, check: Check) -> bool:
        """Copies the shard again if its copy has damaged samples; returns whether that was so. Raises as `fetch`."""
        with FileLock(f"{path}.lock"):
            if size_of(path) == size and not check(path):
                return False
            Path(path).unlink(missing_ok=True)
            self._copy(url, path, size, check, nothing_upcoming, float("inf"))
        return True

    def _on_disk(self) -> int:
        """Bytes of shards that the disk has room for."""
        used = sum(copy.size for copy in self._copies())
        return max(0, used + self._free(used))

    def _copy(self, url: str, path: str, size: int, check: Check | None, upcoming: UpcomingNow, unused_since: float) -> None:
        """Copies a shard, whose lock this process has."""
        damaged: list[str] = []
        for _ in range(2):
            part = self._make_room(path, size, upcoming, unused_since)
            try:
                self._copy_part(url, path, part, size, upcoming, unused_since)
                damaged = check(part) if check else []
                if not damaged:
                    with self._lock():  # otherwise a process that lists the copies may see neither of the two names
                        os.replace(part, path)
                    return
            finally:
                Path(part).unlink(missing_ok=True)
        others = f" and {len(damaged) - 1} others" if len(damaged) > 1 else ""
        raise DamagedShard(
            f"{url}: {damaged[0]}{others}: the bytes do not match the checksum, nor do those of a second copy: upload the "
            "shard again, or let python -m pipelines.prepare check list the sample as unreadable",
            damaged,
        )

    def _copy_part(self, url: str, path: str, part: str, size: int, upcoming: UpcomingNow, unused_since: float) -> None:
        """Copies a shard to `part`; once more if something else fills the disk meanwhile. Raises CacheFull, or OSError."""
        try:
            copy_file(url, part, size)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self._make_room(path, size, upcoming, unused_since, at_least=size)
            try:
                copy_file(url, part, size)
            except OSError as again:
                if again.errno not in DISK_FULL:
                    raise
                raise CacheFull(str(again)) from again

    def _make_room(self, path: str, size: int, upcoming: UpcomingNow, unused_since: float, at_least: int = 0) -> str:
        """Removes shards until the one of `path` fits, but `at_least` so many bytes; returns its part, which is created.

        Raises CacheFull, and removes nothing, if that is not possible. This process has the lock of `path`.
        """
        part = f"{path}.{size}.part"  # its name tells other processes how much it will take
        with self._lock():
            # Listing thousands of shards takes a while, and is not necessary on a disk that is far from full.
            if at_least or self.limit is not None or self._free() < UNDER_WAY * size:
                copies, under_way = self._copies(), self._parts(path)
                used = sum(copy.size for copy in copies)
                excess = size + under_way.missing - self._free(used)
                if self.limit is not None:
                    excess = max(excess, size + used + under_way.total - self.limit)
                evicted = choose_evictions(copies, max(excess, at_least), upcoming(), unused_since)
                if evicted is None:
                    raise CacheFull(f"{path} does not fit: {self.describe()}")
                for copy in evicted:
                    Path(copy.path).unlink(missing_ok=True)
            Path(part).touch()
        return part

    def _lock(self) -> FileLock:
        """Must be held to list, add and remove shards."""
        return FileLock(os.path.join(self.root, "shards.lock"))

    def _free(self, used: int | None = None) -> int:
        """Bytes that are free on the disk, without a margin: with less than 5 % Ray schedules nothing on a node.

        The margin is at most half of what the disk has beside other files, `used` being the bytes of the cache's shards.
        """
        disk = shutil.disk_usage(_existing(self.root))
        margin = min(disk.total // 10, disk.total // 20 + 5 * GIB)
        return disk.free - (margin if used is None else min(margin, (disk.free + used) // 2))

    def _copies(self) -> list[Copy]:
        found = []
        for entry in self._files():
            if entry.name.endswith(".tar"):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    status = entry.stat()
                    found.append(Copy(entry.path, status.st_size, status.st_mtime))
        return found

    def _parts(self, own: str) -> _UnderWay:
        """The copies that others are making. Removes what killed processes have left, also of `own`, which is locked."""
        total = missing = 0
        for entry in self._files():
            if not entry.name.endswith(".part"):
                continue
            named = PART.fullmatch(entry.path)
            shard = named[1] if named else entry.path.removesuffix(".part")
            lock = contextlib.nullcontext() if shard == own else FileLock(f"{shard}.lock", blocking=False)
            try:
                with lock:
                    Path(entry.path).unlink(missing_ok=True)
            except Timeout:
                size = int(named[2]) if named else 0
                with contextlib.suppress(FileNotFoundError):
                    total, missing = total + size, missing + max(0, size - entry.stat().st_size)
        return _UnderWay(total, missing)

    def _files(self) -> list[os.DirEntry[str]]:
        found: list[os.DirEntry[str]] = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root) as folders:
            for folder in folders:
                if SUBFOLDER.fullmatch(folder.name) and folder.is_dir():
                    with os.scandir(folder.path) as files:
                        found += files
        return found


@dataclass(frozen=True)
class _UnderWay:
    """The copies that are being made: their sizes in all, and the part of that which is not yet written. Bytes."""

    total: int
    missing: int


def _open_cache(root: str) -> NodeCache:
    return NodeCache(root, cache_limit())


def _existing(folder: str) -> str:
    """The folder, or its nearest parent that exists."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder
