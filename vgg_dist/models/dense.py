"""The dense form of a net for testing (paper, section 3.2): FC layers as convolutions, score maps of larger images."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vgg_dist.models.vgg import ConvNet


def fully_convolutional(model: ConvNet) -> nn.Sequential:
    """The dense form for testing, paper section 3.2: larger images (N, C, H, W) to score maps (N, num_classes, h, w).

    The first FC layer becomes a convolution over map_size x map_size features (7x7 at 224), the others 1x1, so that
    position (y, x) holds the logits of the FC form for that window of the features; dropout is left out. A linear
    head becomes one such convolution. A gap head becomes a 1x1 convolution, and the mean of its score map over space
    is the model's logits.

    Move the model to its device and call eval() first: the convolutional layers are the model's own, not copies, and the new
    ones share the memory of its FC weights.
    """
    kernel = 1 if isinstance(model.avgpool, nn.AdaptiveAvgPool2d) else model.map_size
    layers = model.classifier if isinstance(model.classifier, nn.Sequential) else [model.classifier]
    classifier: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            classifier.append(_as_convolution(layer, kernel))
            kernel = 1
        elif not isinstance(layer, nn.Dropout):
            classifier.append(layer)
    return nn.Sequential(OrderedDict(features=model.features, classifier=nn.Sequential(*classifier)))


class WindowLinear(nn.Conv2d):
    """A convolution with few positions and many weights, computed as one matrix product over its windows.

    With 7x7 kernels and 4096 filters it is eight times as fast on a CPU as oneDNN's convolution, which reorders the weights.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, out_channels, H - k + 1, W - k + 1); stride 1, no padding."""
        height, width = self.kernel_size
        windows = maps.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
        return linear(windows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _as_convolution(layer: nn.Linear, kernel: int) -> nn.Conv2d:
    """A linear layer on flattened (C, kernel, kernel) maps, as the convolution that shares its weights."""
    channels = layer.in_features // kernel**2
    with torch.device("meta"):
        conv = WindowLinear(channels, layer.out_features, kernel)
    weight = layer.weight.detach().view(layer.out_features, channels, kernel, kernel)
    conv.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    conv.bias = layer.bias
    return conv
