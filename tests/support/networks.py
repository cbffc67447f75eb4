"""Networks for tests: without memory, or with drawn weights and in eval mode; and images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgg_dist.models.build import build_model
from vgg_dist.models.vgg import ConvNet


def build_on_meta(arch: str, **options: object) -> ConvNet:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_model(arch, **options)  # type: ignore[arg-type]


def build_drawn(arch: str, *, seed: int = 0, **options: object) -> ConvNet:
    """The network in eval mode, every tensor drawn from the seed so that activations neither fade nor explode."""
    model = build_on_meta(arch, **options).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.uniform_(module.state_dict()["bias"], -0.1, 0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            for name in ("weight", "bias", "running_mean", "running_var"):
                nn.init.uniform_(module.state_dict()[name], 0.5, 1.5, generator=generator)
    return model.eval()


def images_of(size: int, *, channels: int = 3, count: int = 1, width: int | None = None) -> Tensor:
    return torch.randn(count, channels, size, width or size, generator=torch.Generator().manual_seed(size))
