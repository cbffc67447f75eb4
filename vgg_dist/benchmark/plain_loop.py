"""The plain loop of `benchmark step`: the training loop of torchvision's reference classification script.

As in references/classification/train.py: torchvision's VGG in NCHW, SGD, optional autocast, and after each step the loss and
the accuracies are fetched from the device. For A-LRN it is torchvision's vgg11 with torch's LocalResponseNorm.
"""

from __future__ import annotations

from typing import cast

import torch
import torchvision
from torch import Tensor, nn

TORCHVISION_NAMES = {"A": "vgg11", "A-LRN": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
_POOLED = 7  # torchvision pools to 7x7 before its FC layers, for any image size


def has_torchvision_net(arch: str, image_size: int) -> bool:
    """Whether torchvision has the same net for images of this size."""
    return arch in TORCHVISION_NAMES and image_size // 32 == _POOLED


class PlainLoop:
    """Trains torchvision's version of `arch` on one batch: images (n, 3, H, W) float32, labels (n,) int64.

    `dtype`: for autocast; None for fp32 without autocast.
    """

    def __init__(self, arch: str, batch_norm: bool, dtype: torch.dtype | None, images: Tensor, labels: Tensor) -> None:
        name = TORCHVISION_NAMES[arch] + ("_bn" if batch_norm else "")
        model = torchvision.models.get_model(name, weights=None, num_classes=1000, init_weights=False)
        if arch == "A-LRN":
            cast(nn.Sequential, model.features).insert(2, nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
        self.model = model.to(images.device).train()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
        self.dtype = dtype
        self.images, self.labels = images.contiguous(), labels
        self.meters: dict[str, float] = {}

    def run(self, steps: int) -> None:
        """Trains for `steps` steps; `meters` then has the loss and accuracies (in percent) of the last one."""
        for _ in range(steps):
            with torch.autocast(self.images.device.type, self.dtype, enabled=self.dtype is not None):
                output = self.model(self.images)
                loss = self.criterion(output, self.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            top1, top5 = accuracy(output, self.labels, (1, 5))
            self.meters = {"loss": loss.item(), "acc1": top1.item(), "acc5": top5.item()}


def accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...]) -> list[Tensor]:
    """The top-k accuracies in percent, as the reference script computes them."""
    with torch.inference_mode():
        _, predicted = output.topk(max(topk), 1, True, True)
        correct = predicted.t().eq(target[None])
        return [correct[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(target)) for k in topk]
