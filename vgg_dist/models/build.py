"""Builds the networks by name, initialises their weights (paper, section 3.1) and counts their multiply-adds.

`build_model("D", batch_norm=True)` is the paper's 16-layer net with batch normalisation. Every network maps float
images (N, C, H, W), minus the pixel mean of its ModelSpec, to logits (N, num_classes).
"""

from __future__ import annotations

import torch
from torch import nn

from vgg_dist.models.feature_maps import output_size
from vgg_dist.models.predecessors import AlexNet, LeNet5, ZFNet
from vgg_dist.models.specs import MODELS
from vgg_dist.models.vgg import VGG, ConvNet

INIT_SCHEMES = ("glorot", "gaussian", "he")


def build_model(
    arch: str,
    *,
    num_classes: int = 1000,
    batch_norm: bool = False,
    head: str = "fc",
    image_size: int | None = None,
    dropout: float = 0.5,
    width: float = 1.0,
) -> ConvNet:
    """A network of MODELS for square images of `image_size` pixels (None: its usual size), weights as torch draws them.

    The first FC layer is as large as the feature map of this size, so the net accepts no other size; its dense form
    (`fully_convolutional`) accepts larger ones. Dropout is in the fc heads of VGG, AlexNet and ZFNet.
    `width` is a factor for the channels of VGG's convolutions.

    Raises ValueError, one line that names the flag and what is allowed, for an unknown arch or head, batch norm or a width
    for a net that has none, no classes, dropout outside [0, 1) or an image too small.
    """
    if arch not in MODELS:
        raise ValueError(f"--arch {arch!r} is unknown; allowed: {', '.join(MODELS)}")
    spec = MODELS[arch]
    image_size = spec.image_size if image_size is None else image_size
    if head not in spec.heads:
        raise ValueError(f"--head {head!r} is unknown for {arch}; allowed: {', '.join(spec.heads)}")
    if batch_norm and not spec.batch_norm:
        allowed = ", ".join(name for name, other in MODELS.items() if other.batch_norm)
        raise ValueError(f"--batch-norm does not exist for {arch}; allowed with: {allowed}")
    if not width > 0 or (width != 1 and not spec.has_width):
        raise ValueError(f"--width {width:g} is not possible for {arch}; allowed: {'more than 0' if spec.has_width else 1}")
    if image_size < spec.min_image_size:
        raise ValueError(f"--image-size {image_size} is too small for {arch}; allowed: {spec.min_image_size} or more")
    if num_classes < 1:
        raise ValueError(f"num_classes {num_classes} is too small; allowed: 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"--dropout {dropout} is out of range; allowed: 0 or more and less than 1")
    if arch == "lenet5":
        return LeNet5(num_classes=num_classes, image_size=image_size)
    if arch == "alexnet":
        return AlexNet(num_classes=num_classes, image_size=image_size, dropout=dropout)
    if arch == "zfnet":
        return ZFNet(num_classes=num_classes, image_size=image_size, dropout=dropout)
    return VGG(
        arch,
        num_classes=num_classes,
        batch_norm=batch_norm,
        head=head,
        image_size=image_size,
        dropout=dropout,
        width=width,
    )


def initialize(
    model: nn.Module, scheme: str = "glorot", *, std: float = 0.01, generator: torch.Generator | None = None
) -> None:
    """Draws all weights, in place, from `generator` (on their device); biases 0, batch norm the identity.

    glorot: uniform within +-sqrt(6 / (fan_in + fan_out)); with it, the paper's authors found later, the deep nets need not
    start from A. gaussian: mean 0 and `std` (the paper says "1e-2 variance"; Krizhevsky uses a std of 0.01, and with 0.1
    activations explode). he: normal with variance 2 / fan_in. Raises ValueError for another scheme.
    """
    if scheme not in INIT_SCHEMES:
        raise ValueError(f"--init {scheme!r} is unknown; allowed: {', '.join(INIT_SCHEMES)}")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            if scheme == "glorot":
                nn.init.xavier_uniform_(module.weight, generator=generator)
            elif scheme == "gaussian":
                nn.init.normal_(module.weight, std=std, generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def macs(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of the convolutions and FC layers in one forward pass of one square image of `image_size` pixels.

    For sequential nets, as all of MODELS and their dense forms are. Nothing is computed or allocated, so the model may be on
    the meta device.
    """
    total, size = 0, image_size
    for layer in model.modules():
        size = output_size(layer, size)
        if isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * size**2
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()
    return total
