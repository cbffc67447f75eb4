"""Memory for batches on a CPU, used again once nobody holds the batch: fresh pages cost more than all arithmetic on them."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """Arrays of one shape, float32."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._all: list[NDArray[np.float32]] = []

    def take(self) -> NDArray[np.float32]:
        """An array that no batch refers to any more, or a new one; what is in it does not matter."""
        for buffer in self._all:
            if sys.getrefcount(buffer) == 3:  # the list, the loop's name, the argument: no batch
                return buffer
        self._all.append(np.empty(self.shape, np.float32))
        return self._all[-1]
