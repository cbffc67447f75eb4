"""The VGG family: the paper's table of configurations (section 2, arXiv:1409.1556) and the nets built from it.

Modules and state-dict keys are those of torchvision's vgg11, 13, 16 and 19, so weights of A, B, D and E can be exchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgg_dist.models.dropout import KeyedDropout
from vgg_dist.models.lrn import LocalResponseNorm
from vgg_dist.models.small_maps import SmallMapConv2d

# Five stages, a 2x2 max-pool after each. A number is a 3x3 convolution of that many channels (stride 1, map size kept),
# @KxK another kernel size, "lrn" a local response normalisation. B-5x5 is the control net of the paper's section 4.1.
CONFIGS = {
    "A": "64 | 128 | 256 256 | 512 512 | 512 512",
    "A-LRN": "64 lrn | 128 | 256 256 | 512 512 | 512 512",
    "B": "64 64 | 128 128 | 256 256 | 512 512 | 512 512",
    "B-5x5": "64@5x5 | 128@5x5 | 256@5x5 | 512@5x5 | 512@5x5",
    "C": "64 64 | 128 128 | 256 256 256@1x1 | 512 512 512@1x1 | 512 512 512@1x1",
    "D": "64 64 | 128 128 | 256 256 256 | 512 512 512 | 512 512 512",
    "E": "64 64 | 128 128 | 256 256 256 256 | 512 512 512 512 | 512 512 512 512",
}

HEADS = ("fc", "gap", "linear")


def fc_head(in_features: int, num_classes: int, dropout: float) -> nn.Sequential:
    """The head of AlexNet and VGG: two layers of 4096, each with ReLU and dropout, and a linear layer to the logits."""
    return nn.Sequential(
        nn.Linear(in_features, 4096),
        nn.ReLU(inplace=True),
        KeyedDropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        KeyedDropout(dropout),
        nn.Linear(4096, num_classes),
    )


class ConvNet(nn.Module):
    """The base class of all networks here: features (N, C, h, w), an optional average over space, a classifier.

    `map_size` is the side h = w of the features of an image of the size that the network was built for.
    """

    def __init__(self, features: nn.Sequential, avgpool: nn.Module, classifier: nn.Module, map_size: int) -> None:
        super().__init__()
        self.features = features
        self.avgpool = avgpool
        self.classifier = classifier
        self.map_size = map_size

    def forward(self, images: Tensor) -> Tensor:
        """Float images (N, C, H, W) to logits (N, num_classes); H = W as the net was built (gap head: any size)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


class VGG(ConvNet):
    """One network of CONFIGS for square images of `image_size` pixels, at least 32, with one of three heads.

    fc: the paper's 4096-4096-num_classes with dropout. gap: the average over space and one linear layer. linear: one
    linear layer on the flattened features. Dropout belongs to the fc head. With `batch_norm`, every convolution is
    followed by one. `width`: factor for the channels of the convolutions.
    """

    def __init__(
        self,
        arch: str,
        *,
        num_classes: int,
        batch_norm: bool,
        head: str,
        image_size: int,
        dropout: float,
        width: float = 1.0,
    ) -> None:
        map_size = image_size // 32
        in_features = scaled(512, width) * (1 if head == "gap" else map_size**2)
        super().__init__(
            features=make_features(arch, batch_norm=batch_norm, width=width),
            avgpool=nn.AdaptiveAvgPool2d(1) if head == "gap" else nn.Identity(),
            classifier=(fc_head(in_features, num_classes, dropout) if head == "fc" else nn.Linear(in_features, num_classes)),
            map_size=map_size,
        )


def scaled(channels: int, width: float) -> int:
    """The channels of a convolution in a net of that width: at least one."""
    return max(1, round(channels * width))


def make_features(arch: str, *, batch_norm: bool, width: float = 1.0) -> nn.Sequential:
    """The convolutional part of a network of CONFIGS: images (N, 3, H, W) to features (N, 512 width, H // 32, W // 32)."""
    layers: list[nn.Module] = []
    in_channels = 3
    for stage in CONFIGS[arch].split("|"):
        for layer in stage.split():
            if layer == "lrn":
                layers.append(LocalResponseNorm())
                continue
            number, _, size = layer.partition("@")
            channels, kernel = scaled(int(number), width), int(size[:1] or 3)
            conv = SmallMapConv2d if kernel == 3 else nn.Conv2d
            layers.append(conv(in_channels, channels, kernel, padding=kernel // 2))
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
            in_channels = channels
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*layers)


def conv_names(features: nn.Sequential) -> dict[str, int]:
    """The paper's layer names ("conv3_1": first convolution of the third stage) and their indices in `features`."""
    names: dict[str, int] = {}
    stage, position = 1, 0
    for index, layer in enumerate(features):
        if isinstance(layer, nn.Conv2d):
            position += 1
            names[f"conv{stage}_{position}"] = index
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            stage, position = stage + 1, 0
    return names
