"""Loss and top-k errors as sums on the device, divided once, after one all-reduce over the workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.loading.loader import IGNORED_LABEL
from vgg_dist.metric_names import TOP


class ErrorSums:
    """Sums over images of the loss, the top-1 and top-5 errors, and the number of images.

    Images that could not be decoded (label IGNORED_LABEL) are not counted. Nothing here waits for the device until
    `result` is called.
    """

    FIELDS = ("loss", "top1_error", "top5_error", "images")

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(self.FIELDS), dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> None:
        """logits (n, classes), labels (n,), and the loss summed over the images."""
        counted = labels != IGNORED_LABEL
        top5 = logits.detach().topk(min(TOP, logits.shape[1]), dim=1).indices
        hits = (top5 == labels[:, None]) & counted[:, None]
        images = counted.sum()
        top1_hits, top5_hits = hits[:, 0].sum(), hits.sum()
        self.sums += torch.stack([loss_sum.detach().double(), images - top1_hits, images - top5_hits, images])

    def reduce(self) -> ErrorSums:
        """The sums over all workers; a collective call, every worker must make it."""
        total = ErrorSums(self.sums.device)
        total.sums.copy_(self.sums)
        if dist.is_initialized():
            dist.all_reduce(total.sums)
        return total

    def result(self) -> dict[str, float]:
        """Mean loss per image, and errors in percent; NaN if no image was counted."""
        return means(self.sums.tolist())


def means(sums: Sequence[float]) -> dict[str, float]:
    """What ErrorSums' sums, read from the device, say of an image on average; errors in percent."""
    *values, images = sums
    loss, top1, top5 = (value / images if images else float("nan") for value in values)
    return {"loss": loss, "top1_error": 100 * top1, "top5_error": 100 * top5}


def over_workers(sums: Tensor, local: Sequence[float], smallest: Tensor) -> tuple[list[float], list[float], float]:
    """`sums` and `local` added up over all workers, and the least `smallest` (a scalar) of any: with one read of the device.

    A collective call.
    """
    total = torch.cat([sums, torch.tensor(local, dtype=torch.float64, device=sums.device)])
    least = smallest.clone()
    if dist.is_initialized():
        dist.all_reduce(total)
        dist.all_reduce(least, dist.ReduceOp.MIN)
    *values, last = torch.cat([total, least[None]]).tolist()
    return values[: len(sums)], values[len(sums) :], last
