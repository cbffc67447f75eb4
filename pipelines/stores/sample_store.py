"""The interface of a store of encoded images, whatever the storage.

`pipelines.stores.open.open_store` opens one; the loaders, `prepare` and the benchmarks read it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipelines.layouts.image_files import LeftOut
from pipelines.stores.restart_table import CutOut, DamagedTable


class Names:
    """An immutable sequence of strings in two arrays.

    1.28 M file names take 40 MB, pickle fast, and fit into an npz file without pickle.
    `blob`: uint8, all names as UTF-8, concatenated (undecodable file names round-trip by surrogate escape).
    `ends`: int64 (N,), where each name ends.
    """

    def __init__(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self.blob = blob
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Packs `names`, in that order."""
        return cls._join([name.encode("utf-8", "surrogateescape") for name in names])

    @classmethod
    def _join(cls, encoded: list[bytes]) -> Names:
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        index = range(len(self.ends))[index]
        start = self.ends[index - 1] if index else 0
        return self.blob[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        blob, start = self.blob.tobytes(), 0
        for end in self.ends.tolist():
            yield blob[start:end].decode("utf-8", "surrogateescape")
            start = end

    def take(self, indices: np.ndarray) -> Names:
        """The names at `indices`, in that order."""
        blob, starts = self.blob.tobytes(), np.concatenate([[0], self.ends[:-1]])
        spans = zip(starts[indices].tolist(), self.ends[indices].tolist(), strict=True)
        return self._join([blob[start:end] for start, end in spans])


@dataclass(frozen=True)
class CacheUse:
    """How much of a split's shards this machine's cache has. All sizes in bytes.

    `total`: of all shards; `cached`: of those in the cache; `capacity`: what the cache can hold, of all data; `limit`: what
    bounds it, for messages.
    """

    total: int
    cached: int
    capacity: int
    limit: str


class ReadAhead:
    """Is told how far a process has read. This one does nothing: for data that are not copied."""

    def reached(self, time: int) -> None:
        """Tells that this process begins to read the samples of this time."""


class SampleStore(ABC):
    """N encoded images, each with a class.

    `labels`: int64 (N,), indices into `class_names`, which are the sorted class names of the training split.
    `left_out`: the other files that were found, which are not samples, by reason.
    `read` may be called from several threads at once. A store can be pickled; file handles are then reopened.
    """

    labels: np.ndarray
    class_names: list[str]
    left_out: LeftOut

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image. Raises OSError with the sample's name if it cannot be read."""

    @abstractmethod
    def length(self, index: int) -> int:
        """Size of the encoded image in bytes. Raises OSError with the sample's name if it cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """The sample's name in messages and quarantine lists.

        For example `train/n01440764/x.JPEG` for class folders, `train-00003.tar:n01440764/x.jpg` for shards.
        """

    @abstractmethod
    def size(self, index: int) -> tuple[int, int] | None:
        """(height, width) of the stored pixels, EXIF orientation not applied; None if it is unknown."""

    def can_cut_out(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the samples at `indices` (n,) `cut_out` can cut windows from; the size of these is known."""
        return np.zeros(len(indices), np.bool_)

    def cut_out(self, index: int, start: tuple[int, int], end: tuple[int, int]) -> CutOut:
        """A smaller JPEG around the pixels from `start` to `end` (y, x), which reads only the bytes that it needs.

        Raises OSError with the sample's name if it cannot be read, DamagedTable if it cannot be cut.
        """
        raise DamagedTable("no restart table")

    @abstractmethod
    def subset(self, indices: np.ndarray) -> Self:
        """A store of only the samples at `indices`, in that order."""

    def find(self, names: Set[str]) -> np.ndarray:
        """Indices of the samples with these names, ascending; names without a sample are ignored."""
        return np.array([index for index in range(len(self)) if self.name(index) in names], dtype=np.int64)

    def check_bytes(self, index: int) -> str:
        """Compares a sample's stored bytes with their checksum, where there is one.

        Returns a line about a damaged copy that was replaced, otherwise "". Raises OSError with the sample's name if the
        bytes are damaged.
        """
        return ""

    def to_fetch(self) -> dict[str, int]:
        """The files that are not yet copied to this machine: URL -> bytes. Empty for local data."""
        return {}

    def cache_use(self) -> CacheUse | None:
        """How much of the files is copied to this machine; None for local data."""
        return None

    def shards(self) -> NDArray[np.int32] | None:
        """The number of the shard that each sample is in, (N,); None for a store without shards."""
        return None

    def fetch_ahead(
        self, indices: NDArray[np.int64], times: NDArray[np.int64], part: int = 0, parts: int = 1, threads: int = 4
    ) -> AbstractContextManager[ReadAhead]:
        """Copies whole files in the background, ahead of a machine's processes that read `indices` (m,) in that order.

        `times` (m,), ascending: when, in whatever the processes count. Each of `parts` processes copies the share with its
        number, `part`, and tells the entered context which time it has `reached`.
        """
        return nullcontext(ReadAhead())

    def open_cache(self) -> None:
        """Creates the folder for copied files, if there are any. Raises ValueError, one line, if it cannot be written."""
        return

    def stop_copying(self) -> None:
        """From now on, samples of files that are not copied are read one by one, as for reads in random order."""
        return

    def prefetch(self, part: int = 0, parts: int = 1, threads: int = 8) -> None:
        """Copies as many of these files as fit in advance, with a progress bar, so that no batch has to wait for them.

        Each of `parts` processes copies the share with its number, `part`. Raises OSError, one line, if a copy fails.
        """
        return
