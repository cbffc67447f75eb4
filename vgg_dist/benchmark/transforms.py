"""torchvision's preprocessing of one decoded image, with the planned crop and flip: on PIL images (v1), on tensors (v2).

Both classes are pickled to the worker processes of DataLoaders.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional
from torchvision.transforms.v2 import functional as functional_v2

from vgg_dist.benchmark.work import Work


class _Planned:
    def __init__(self, work: Work) -> None:
        self.scale, self.corner, self.flip = work.samples.scale, work.corner, work.samples.flip
        self.means = work.means(slice(None)) / 255
        self.std = (np.array(work.preprocessing.std) / 255).tolist()
        self.size = work.preprocessing.image_size


class PilTransform(_Planned):
    """Rescale, crop, flip, convert to a tensor, normalise: torchvision's reference transforms on PIL images."""

    def __call__(self, position: int, image: Image.Image) -> Tensor:
        """(3, size, size) float32 from the RGB image at this position in the epoch."""
        image = functional.resize(image, int(self.scale[position]), functional.InterpolationMode.BILINEAR)
        image = functional.crop(image, *self.corner[position].tolist(), self.size, self.size)
        if self.flip[position]:
            image = functional.hflip(image)
        pixels = functional.convert_image_dtype(functional.pil_to_tensor(image), torch.float)
        return functional.normalize(pixels, self.means[position].tolist(), self.std)


class TensorTransform(_Planned):
    """The same steps with transforms.v2 on uint8 tensors."""

    def __call__(self, position: int, image: Tensor) -> Tensor:
        """(3, size, size) float32 from the RGB image (3, H, W) uint8 at this position in the epoch."""
        mode = functional_v2.InterpolationMode.BILINEAR
        image = functional_v2.resize(image, [int(self.scale[position])], mode, antialias=True)
        image = functional_v2.crop(image, *self.corner[position].tolist(), self.size, self.size)
        if self.flip[position]:
            image = functional_v2.horizontal_flip(image)
        pixels = functional_v2.to_dtype(image, torch.float32, scale=True)
        return functional_v2.normalize(pixels, self.means[position].tolist(), self.std)
