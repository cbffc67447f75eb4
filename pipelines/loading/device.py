"""The loader's CUDA stream: its copies and kernels, and the hand-over of finished batches to training.

On a CPU all of it is a no-op. On a GPU the loader's thread works on a high-priority stream, so that its few small kernels do
not queue behind those of training. Batches are complete when they are handed over, and the allocator does not reuse their
memory for the loader before training's stream has finished with them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def bind_thread(device: torch.device) -> None:
    """Makes `device` the calling thread's GPU: a new thread starts on GPU 0 and would create a CUDA context there."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


class LoaderStream:
    """See the module's docstring. May be created in any thread; used in the loader's thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda_stream: Any = None
        """None on a CPU."""
        if device.type == "cuda":
            self.cuda_stream = torch.cuda.Stream(device, priority=-1)

    def use(self) -> AbstractContextManager[Any]:
        """Inside this context, work is queued on the loader's stream."""
        return nullcontext() if self.cuda_stream is None else torch.cuda.stream(self.cuda_stream)

    def upload(self, values: NDArray[Any]) -> Tensor:
        """A small array on the device. Goes through pinned memory; otherwise the copy would wait for the stream."""
        host = torch.from_numpy(np.ascontiguousarray(values))
        return host if self.device.type == "cpu" else host.pin_memory().to(self.device, non_blocking=True)

    def synchronize(self) -> None:
        """Blocks the loader's thread until everything queued on the stream is done."""
        if self.cuda_stream is not None:
            self.cuda_stream.synchronize()

    @staticmethod
    def hand_over(*tensors: Tensor) -> None:
        """Keeps the tensors' memory from being reused before the calling thread's stream has finished with them.

        Called by the thread that uses the tensors, whose values are complete by then.
        """
        for tensor in tensors:
            if tensor.device.type == "cuda":
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
