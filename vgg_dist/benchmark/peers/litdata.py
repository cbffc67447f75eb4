"""LitData: an optimized dataset, its StreamingDataset and StreamingDataLoader, and transforms.v2 on its tensors.

Each worker process reads consecutive chunks, so batches come in another order than the epoch's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import litdata  # type: ignore[import-not-found]
from litdata.types import Jpeg  # type: ignore[import-not-found]
from torch import Tensor

from vgg_dist.benchmark.transforms import TensorTransform
from vgg_dist.benchmark.work import PlacedEpoch, Work


def sample(work: Work, position: int) -> dict[str, Any]:
    """The stored sample for the image at this position: its file, unchanged (max_quality would re-encode some)."""
    return {"position": position, "image": Jpeg(bytes=work.read(position), max_quality=None)}


class Step:
    """The work of a worker process for one decoded sample."""

    def __init__(self, work: Work) -> None:
        self.transform = TensorTransform(work)

    def __call__(self, sample: dict[str, Any]) -> tuple[int, Tensor]:
        """The position in the epoch, and the crop."""
        return sample["position"], self.transform(sample["position"], sample["image"])


def set_up(work: Work, folder: Path) -> PlacedEpoch:
    """Writes the chunks to `folder`, and opens LitData's loader on them."""
    litdata.optimize(
        partial(sample, work),
        inputs=list(range(len(work.samples))),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        keep_data_ordered=True,
        reorder_files=False,
    )
    dataset = litdata.StreamingDataset(str(folder), shuffle=False, drop_last=False, transform=Step(work))
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=work.batch,
        num_workers=work.threads,
        persistent_workers=True,
        pin_memory=work.device.type == "cuda",
        multiprocessing_context="spawn",
    )
    return lambda: ((positions, images.to(work.device, non_blocking=True)) for positions, images in loader)
