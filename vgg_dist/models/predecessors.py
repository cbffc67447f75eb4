"""The earlier nets that VGG is compared with: LeNet-5, AlexNet in one column, and ZFNet.

LeCun et al. 1998; Krizhevsky et al. 2012; Zeiler & Fergus, arXiv:1311.2901. Each is a plain sequence of modules, `features`.
A deconvnet can iterate over it and repeat a max-pool with return_indices=True; the forward pass of training records no
switches.
"""

from __future__ import annotations

import functools

from torch import nn

from vgg_dist.models.feature_maps import output_size
from vgg_dist.models.lrn import LocalResponseNorm
from vgg_dist.models.vgg import ConvNet, fc_head


class LeNet5(ConvNet):
    """LeNet-5 for grey images (N, 1, 32, 32): sigmoid units, 2x2 average pools, three FC layers.

    It returns logits, like every net here; the log-softmax is part of the loss. It has no dropout.
    """

    def __init__(self, *, num_classes: int, image_size: int) -> None:
        features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5),
            nn.Sigmoid(),
            nn.AvgPool2d(kernel_size=2, stride=2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.Sigmoid(),
            nn.AvgPool2d(kernel_size=2, stride=2),
        )
        map_size = _map_size(features, image_size)
        classifier = nn.Sequential(
            nn.Linear(16 * map_size**2, 120),
            nn.Sigmoid(),
            nn.Linear(120, 84),
            nn.Sigmoid(),
            nn.Linear(84, num_classes),
        )
        super().__init__(features, nn.Identity(), classifier, map_size)


class AlexNet(ConvNet):
    """AlexNet without its split over two GPUs, for images (N, 3, 227, 227): ReLU, then LRN, then overlapping 3x3 pools.

    The maps are 55, 27, 13, 13, 13 wide after the five convolutions and 6x6x256 before the FC layers. torchvision's AlexNet
    is a different, narrower net.
    """

    def __init__(self, *, num_classes: int, image_size: int, dropout: float) -> None:
        features = nn.Sequential(
            nn.Conv2d(3, 96, kernel_size=11, stride=4),
            nn.ReLU(inplace=True),
            LocalResponseNorm(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(96, 256, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            LocalResponseNorm(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            *_last_convolutions(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        map_size = _map_size(features, image_size)
        super().__init__(features, nn.Identity(), fc_head(256 * map_size**2, num_classes, dropout), map_size)


class ZFNet(ConvNet):
    """ZFNet for images (N, 3, 224, 224): AlexNet with conv1 7x7/2 and conv2 5x5/2, each with ReLU, pool, then LRN.

    The maps are 110 and 26 wide after those convolutions, 55 and 13 after their pools, 6x6x256 before the FC layers. The
    paper gives these sizes but no padding: one pixel around the image, and pools that round up as those of cuda-convnet,
    result in all of them. The pooled maps are normalised, as in its figure 3.
    """

    def __init__(self, *, num_classes: int, image_size: int, dropout: float) -> None:
        features = nn.Sequential(
            nn.Conv2d(3, 96, kernel_size=7, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            LocalResponseNorm(),
            nn.Conv2d(96, 256, kernel_size=5, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
            LocalResponseNorm(),
            *_last_convolutions(),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),
        )
        map_size = _map_size(features, image_size)
        super().__init__(features, nn.Identity(), fc_head(256 * map_size**2, num_classes, dropout), map_size)


def _last_convolutions() -> list[nn.Module]:
    """Convolutions 3 to 5, which AlexNet and ZFNet share."""
    return [
        nn.Conv2d(256, 384, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
    ]


def _map_size(features: nn.Sequential, image_size: int) -> int:
    return functools.reduce(lambda size, layer: output_size(layer, size), features, image_size)
