"""Reusable memory for batches on a CPU: touching fresh pages would cost more than the arithmetic on them."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class BatchBuffers:
    """Lends float32 memory of one `shape`, whose first dimension is the largest batch.

    Memory returns to the free list when the last tensor that shares it is gone, so no two live batches share memory.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._free: list[NDArray[np.float32]] = []

    def take(self, count: int) -> Tensor:
        """A tensor (count, *shape[1:]) with arbitrary content, in memory that no live tensor uses."""
        memory = self._free.pop() if self._free else np.empty(self.shape, np.float32)
        # A tensor's storage, which all its views share, holds the very array object that it was made from.
        lent = memory[:count]
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent)
