"""What every store of encoded images offers, wherever the bytes lie.

`pipelines.stores.open.open_store` makes one; the loaders, `prepare` and the benchmarks read it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Set
from typing import Self

import numpy as np

from pipelines.layouts.image_files import LeftOut


class Names:
    """An immutable sequence of strings in two arrays.

    1.28 M file names take 40 MB, pickle at once, and fit an npz without pickle.
    `blob`: uint8, all names as UTF-8 end to end (undecodable file names round-trip by surrogate escape).
    `ends`: int64 (N,), where each name ends.
    """

    def __init__(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self.blob = blob
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Packs `names` in their order."""
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


class SampleStore(ABC):
    """N encoded images with a class each.

    `labels`: int64 (N,), indices into `class_names`, which are the sorted class names of the training split.
    `left_out`: what lies beside the samples and is not among them.
    `read` may be called from several threads at once. A store can be pickled: handles are reopened on the other side.
    """

    labels: np.ndarray
    class_names: list[str]
    left_out: LeftOut

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image; OSError with the sample's name where it cannot be read."""

    @abstractmethod
    def length(self, index: int) -> int:
        """Bytes of the encoded image; OSError with the sample's name where it cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """The sample's name in messages and quarantine lists.

        For example `train/n01440764/x.JPEG` in a tree, `train-00003.tar:n01440764/x.jpg` in shards.
        """

    @abstractmethod
    def size(self, index: int) -> tuple[int, int] | None:
        """(height, width) of the stored pixels in px, EXIF orientation not applied; None where it is not known."""

    @abstractmethod
    def subset(self, indices: np.ndarray) -> Self:
        """The same store with only the samples at `indices`, in that order."""

    def find(self, names: Set[str]) -> np.ndarray:
        """Indices of the samples with these names, ascending; names that are not there are passed over."""
        return np.array([index for index in range(len(self)) if self.name(index) in names], dtype=np.int64)

    def to_fetch(self) -> dict[str, int]:
        """Files, by URL, that are still to be copied to this machine before all samples can be read, and their bytes."""
        return {}

    def prefetch(self, part: int = 0, parts: int = 1, threads: int = 8) -> None:
        """Copies them now, with a progress bar, so that no batch has to wait; the `part`-th of `parts` processes its share.

        Raises ValueError where there is no room for them, OSError where a copy fails.
        """
        return
