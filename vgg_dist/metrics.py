"""Loss and top-k errors as sums on the device, divided once, after one all-reduce over the workers."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.batch import IGNORED_LABEL


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
        top5 = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
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

    @property
    def images(self) -> int:
        """How many images were counted."""
        return int(self.sums[-1].item())

    def result(self) -> dict[str, float]:
        """Mean loss per image, and errors in percent; NaN if no image was counted."""
        *sums, images = self.sums.tolist()
        means = [value / images if images else float("nan") for value in sums]
        return {"loss": means[0], "top1_error": 100 * means[1], "top5_error": 100 * means[2]}
