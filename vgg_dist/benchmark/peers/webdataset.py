"""WebDataset: tar shards read sequentially by the worker processes of a WebLoader, PIL's decoder and transforms.

There is one shard per batch, and the workers read the shards in turn, so batches come in the epoch's order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import webdataset
from torch import Tensor

from vgg_dist.benchmark.transforms import PilTransform
from vgg_dist.benchmark.work import PlacedEpoch, Work


class Step:
    """The work of a worker process for one decoded sample."""

    def __init__(self, work: Work) -> None:
        self.transform = PilTransform(work)

    def __call__(self, sample: dict[str, Any]) -> tuple[int, Tensor]:
        """The position in the epoch, and the crop."""
        position = int(sample["__key__"])
        return position, self.transform(position, sample["jpg"])


def set_up(work: Work, folder: Path) -> PlacedEpoch:
    """Writes the shards to `folder`, and opens a WebLoader on them."""
    shards = []
    for number, part in enumerate(work.parts()):
        shards.append(str(folder / f"{number:06d}.tar"))
        with webdataset.TarWriter(shards[-1]) as shard:
            for position in range(part.start, part.stop):
                shard.write({"__key__": f"{position:09d}", "jpg": work.read(position)})
    # With more workers than shards, some workers have none, which is not an error here.
    dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    loader = webdataset.WebLoader(
        dataset.decode("pil").map(Step(work)).batched(work.batch),
        batch_size=None,
        num_workers=work.threads,
        persistent_workers=True,
        pin_memory=work.device.type == "cuda",
        multiprocessing_context="spawn",
    )
    return lambda: ((positions, images.to(work.device, non_blocking=True)) for positions, images in loader)
