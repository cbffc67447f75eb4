"""What a net is shown of an image at test time, and the posteriors it gives (paper, section 3.2).

dense: the whole image, rescaled to smallest side Q, through the fully-convolutional form of the net; the class score map
is averaged over space, then the soft-max is taken. (The paper does not say which comes first.)
crops: a regular grid of 5 x 5 crops, the posteriors of which are averaged.
center: the one central crop, as public training scripts report it.

dense and crops take the image and its mirror image, and average the posteriors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipelines.window import center_corner, grid_corners
from vgg_dist.models import ConvNet, fully_convolutional
from vgg_dist.models.precision import autocast

VIEWS = ("dense", "crops", "center")


class Viewer:
    """A net that is asked about whole images; the model is put on the device, in evaluation mode.

    `image_size`: side of the crops, pixels. `micro_batch`: crops that are computed at once. `dtype`: of the matrix
    products (autocast), None for fp32.
    """

    def __init__(
        self, model: ConvNet, image_size: int, micro_batch: int, device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.dense = fully_convolutional(self.model)
        self.image_size = image_size
        self.micro_batch = micro_batch
        self.device = device
        self.dtype = dtype

    @torch.inference_mode()
    def posteriors(self, view: str, images: Tensor) -> Tensor:
        """Images (n, C, H, W), normalised, on the device, no side shorter than a crop, to (n, num_classes) float32."""
        with autocast(self.device, self.dtype):
            if view == "dense":
                return (self._dense(images) + self._dense(images.flip(3))) / 2
            if view == "crops":
                return self._crops(images)
            top, left = center_corner(np.array([images.shape[2:]]), self.image_size)[0].tolist()
            return self._of_crops(images[:, :, top : top + self.image_size, left : left + self.image_size])

    def _dense(self, images: Tensor) -> Tensor:
        return self.dense(images).float().mean(dim=(2, 3)).softmax(1)

    def _crops(self, images: Tensor) -> Tensor:
        size = self.image_size
        corners = grid_corners(np.array([images.shape[2:]]), size)[0].tolist()
        crops = torch.stack([images[:, :, top : top + size, left : left + size] for top, left in corners], dim=1)
        both = torch.cat([crops, crops.flip(4)], dim=1)  # (n, 50, C, size, size)
        return self._of_crops(both.flatten(0, 1)).unflatten(0, both.shape[:2]).mean(dim=1)

    def _of_crops(self, crops: Tensor) -> Tensor:
        crops = crops.contiguous(memory_format=torch.channels_last)
        return torch.cat([self.model(part).float().softmax(1) for part in crops.split(self.micro_batch)])
