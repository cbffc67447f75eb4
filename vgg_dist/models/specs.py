"""The specification of each network: image sizes, channels, pixel normalisation, and the variants that exist.

Without torch, because the command line is checked against it before anything heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ModelSpec:
    """The input of a network, and the options that it can be built with."""

    in_channels: int
    """1 for grey images, 3 for RGB."""
    image_size: int
    """Side of its default square input, pixels."""
    min_image_size: int
    """The smallest side that leaves at least 1x1 in front of the classifier, pixels."""
    pixel_mean: tuple[float, ...]
    """Subtracted from each channel, grey levels of 255."""
    pixel_std: tuple[float, ...]
    """Divides each channel after that, grey levels of 255; 1 where the paper only subtracts the mean."""
    batch_norm: bool
    """Whether it can be built with batch normalisation."""
    heads: tuple[str, ...]
    """The heads it can be built with."""
    has_width: bool = False
    """Whether it can be built with fewer or more channels."""
    fc_widths: tuple[int, int] = (4096, 4096)
    """The outputs of the two hidden layers of its fc head."""


_VGG = ModelSpec(
    in_channels=3,
    image_size=224,
    min_image_size=32,
    pixel_mean=(123.68, 116.779, 103.939),
    pixel_std=(1.0, 1.0, 1.0),
    batch_norm=True,
    heads=("fc", "gap", "linear"),
    has_width=True,
)

MODELS: dict[str, ModelSpec] = {
    **{arch: replace(_VGG, batch_norm=arch != "A-LRN") for arch in ("A", "A-LRN", "B", "B-5x5", "C", "D", "E")},
    "lenet5": ModelSpec(
        in_channels=1,
        image_size=32,
        min_image_size=16,
        pixel_mean=(33.3184,),
        pixel_std=(78.5675,),
        batch_norm=False,
        heads=("fc",),
        fc_widths=(120, 84),
    ),
    "alexnet": replace(_VGG, image_size=227, min_image_size=67, batch_norm=False, heads=("fc",), has_width=False),
    "zfnet": replace(_VGG, image_size=224, min_image_size=47, batch_norm=False, heads=("fc",), has_width=False),
}
