"""torchvision v2: torch's DataLoader, torchvision's own JPEG decoder, and transforms.v2 on uint8 tensors.

torchvision 0.29 still has the decoder, but recommends TorchCodec as its successor.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image

from vgg_dist.benchmark.transforms import TensorTransform
from vgg_dist.benchmark.work import PlacedEpoch, Work


class TensorDataset(Dataset[tuple[int, Tensor]]):
    """The work of a DataLoader's worker process for one image."""

    def __init__(self, work: Work) -> None:
        self.store, self.index, self.transform = work.store, work.samples.index, TensorTransform(work)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[int, Tensor]:
        encoded = torch.frombuffer(bytearray(self.store.read(int(self.index[position]))), dtype=torch.uint8)
        # decode_image, not decode_jpeg, because some .JPEG files are PNGs.
        return position, self.transform(position, decode_image(encoded, ImageReadMode.RGB))


def set_up(work: Work, folder: Path | None = None) -> PlacedEpoch:
    """A DataLoader with as many worker processes as the other loaders have threads. Writes nothing."""
    loader = DataLoader(
        TensorDataset(work),
        work.batch,
        num_workers=work.threads,
        persistent_workers=True,
        pin_memory=work.device.type == "cuda",
        multiprocessing_context="spawn",  # the process may have threads (of DALI and CUDA), which do not survive a fork
    )
    return lambda: ((positions, images.to(work.device, non_blocking=True)) for positions, images in loader)
