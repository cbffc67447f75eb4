"""The loader's side of a device: a stream of its own, copies that wait for nothing, and the hand-over to training.

On a CPU all of it is a no-op. On a GPU the loader's thread works on a stream of high priority, so that its few small kernels
are not queued behind the training's; what training is given is complete, and its memory is kept from the loader until
training is through with it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def bind_thread(device: torch.device) -> None:
    """Makes `device` the calling thread's: a new thread begins on GPU 0, and would open a context there."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


class DeviceSide:
    """See the module's docstring. Made in any thread, used in the loader's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.queue: Any = None  # the stream; None on a CPU
        if device.type == "cuda":
            self.queue = torch.cuda.Stream(device, priority=-1)

    def stream(self) -> AbstractContextManager[Any]:
        """Within it, work is queued on the loader's stream."""
        return nullcontext() if self.queue is None else torch.cuda.stream(self.queue)

    def upload(self, values: NDArray[Any]) -> Tensor:
        """A small array on the device; from pinned memory, else the copy would wait for the stream."""
        host = torch.from_numpy(np.ascontiguousarray(values))
        return host if self.device.type == "cpu" else host.pin_memory().to(self.device, non_blocking=True)

    def synchronize(self) -> None:
        """Waits, in the loader's thread, until what it queued is done."""
        if self.queue is not None:
            self.queue.synchronize()

    @staticmethod
    def hand_over(*tensors: Tensor) -> None:
        """Keeps the tensors' memory from the loader until the calling thread's stream is through with them.

        Their values are complete. To be called by the thread that uses them.
        """
        for tensor in tensors:
            if tensor.device.type == "cuda":
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
