"""What a training minimises and which metrics it reports, behind one interface: the loop knows no loss and no error rate.

`CrossEntropy` is the paper's objective for classification (section 3.1). Another task, such as the localisation of the
paper's appendix, brings an `Objective` of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipelines.loading.loader import IGNORED_LABEL, Batch
from vgg_dist.metric_names import TOP


class Objective(Protocol):
    """Computes a loss and metrics from a net's outputs, as sums over images.

    Sums are divided once, after those of all workers are added up, so the means do not depend on how images are split into
    micro-batches and over workers. Images that could not be decoded (label IGNORED_LABEL) must not contribute. `loss_sum`
    and `sums` must not wait for the device.
    """

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the sums; the last one is "images", how many images were counted."""

    @property
    def schedule_metric(self) -> str:
        """The metric by which the learning-rate schedule sees whether a validation improved; smaller is better."""

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss summed over the images of the batch: a scalar to compute gradients from."""

    def sums(self, outputs: Tensor, batch: Batch, loss_sum: Tensor) -> Tensor:
        """What the batch adds to each of `fields`: (len(fields),) float64, on the device, without gradients."""

    def means(self, sums: Sequence[float]) -> dict[str, float]:
        """The metrics by name, from sums over all workers; NaN if no image was counted."""


class CrossEntropy:
    """Softmax cross-entropy, with top-1 and top-5 errors in percent. Outputs are logits (n, classes)."""

    fields = ("loss", "top1_error", "top5_error", "images")
    schedule_metric = "top1_error"

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The cross-entropy in fp32, summed over the images that could be decoded."""
        return cross_entropy(outputs.float(), batch.labels, reduction="sum", ignore_index=IGNORED_LABEL)

    def sums(self, outputs: Tensor, batch: Batch, loss_sum: Tensor) -> Tensor:
        """The loss, the numbers of top-1 and top-5 errors, and of images: (4,) float64."""
        counted = batch.labels != IGNORED_LABEL
        top5 = outputs.detach().topk(min(TOP, outputs.shape[1]), dim=1).indices
        hits = (top5 == batch.labels[:, None]) & counted[:, None]
        images = counted.sum()
        top1_hits, top5_hits = hits[:, 0].sum(), hits.sum()
        return torch.stack([loss_sum.detach().double(), images - top1_hits, images - top5_hits, images])

    def means(self, sums: Sequence[float]) -> dict[str, float]:
        """Mean loss per image, and errors in percent."""
        *values, images = sums
        loss, top1, top5 = (value / images if images else float("nan") for value in values)
        return {"loss": loss, "top1_error": 100 * top1, "top5_error": 100 * top5}
