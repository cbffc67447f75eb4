"""The views of an image at test time, and the posteriors of a net for them (paper, section 3.2).

The image is rescaled to smallest side Q.

- dense: the fully convolutional form of the net on the whole image. The class score map is averaged over space, then the
  soft-max is taken. (The paper does not say which comes first.)
- crops: a regular grid of 5 x 5 crops, whose posteriors are averaged.
- center: the central crop alone, as public training scripts report it.

dense and crops average the posteriors of the image and of its mirror image.

An image too large for memory is read in parts: crops one by one, the score map in tiles. Each tile includes the image around
it that its positions see, so its values are those of the whole score map, up to fp32 rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.loading.crop_geometry import center_corner, grid_corners
from pipelines.loading.whole_images import MAX_BATCHED_PIXELS, Rescaled
from vgg_dist.models.dense import fully_convolutional
from vgg_dist.models.feature_maps import output_size, receptive_field
from vgg_dist.models.precision import autocast
from vgg_dist.models.vgg import ConvNet

VIEWS = ("dense", "crops", "center")


class Viewer:
    """Computes a net's posteriors for whole images. Moves the model to the device, in evaluation mode.

    `image_size`: side of the crops, in pixels. `micro_batch`: crops computed at once. `dtype`: autocast's, None for fp32.
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
        """(n, num_classes) float32 of images (n, C, H, W), normalised, on the device, with no side below the crop's."""
        with autocast(self.device, self.dtype):
            if view == "dense":
                return (self._dense(images) + self._dense(images.flip(3))) / 2
            if view == "crops":
                return self._crops(images)
            top, left = center_corner(np.array([images.shape[2:]]), self.image_size)[0].tolist()
            return self._of_crops(images[:, :, top : top + self.image_size, left : left + self.image_size])

    @torch.inference_mode()
    def posteriors_of_large(self, view: str, image: Rescaled, tile_pixels: int = MAX_BATCHED_PIXELS) -> Tensor:
        """The same for one image that is read in parts: (1, num_classes). A tile has about `tile_pixels`."""
        size = self.image_size
        with autocast(self.device, self.dtype):
            if view == "dense":
                return (self._tiled(image, tile_pixels, False) + self._tiled(image, tile_pixels, True)) / 2
            shape = np.array([image.shape])
            corners = grid_corners(shape, size)[0] if view == "crops" else center_corner(shape, size)
            crops = torch.cat([image.part(top, left, size, size) for top, left in corners.tolist()])
            both = torch.cat([crops, crops.flip(3)]) if view == "crops" else crops
            return self._of_crops(both).mean(dim=0, keepdim=True)

    def _tiled(self, image: Rescaled, tile_pixels: int, mirrored: bool) -> Tensor:
        """`_dense` of the whole image or of its mirror image, tile by tile."""
        side = max(1, int(tile_pixels**0.5))
        height = min(image.shape[0], side)
        down = list(tiles(self.dense, image.shape[0], side))
        right = list(tiles(self.dense, image.shape[1], max(side, tile_pixels // height)))
        total = torch.zeros(1, device=self.device, dtype=torch.float64)
        for rows in down:
            for columns in right:
                part = image.part(rows.start, columns.start, rows.length, columns.length, mirrored=mirrored)
                scores = self.dense(part)[:, :, rows.positions, columns.positions]
                total = total + scores.double().sum(dim=(2, 3))
        positions = sum(one.count for one in down) * sum(one.count for one in right)
        return (total / positions).float().softmax(1)

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


@dataclass(frozen=True)
class Tile:
    """One axis of a tile: `length` pixels from `start`, and from its score map `count` positions from `first`."""

    start: int
    length: int
    first: int
    count: int

    @property
    def positions(self) -> slice:
        """The positions of the tile's score map that count."""
        return slice(self.first, self.first + self.count)


def tiles(dense: nn.Sequential, length: int, pixels: int) -> Iterator[Tile]:
    """Tiles of about `pixels` that together have each position of the score map of `length` pixels once.

    A tile starts at a multiple of the net's stride, so that its positions are positions of the whole map. It covers the
    receptive field of those that count, so that they see padding only at the edges of the image.
    """
    stride, padding, field = receptive_field(dense)
    total = length
    for layer in dense.modules():
        total = output_size(layer, total)
    at_once = max(1, (pixels - field - padding) // stride)
    for begin in range(0, total, at_once):
        end = min(begin + at_once, total)
        skipped = min(begin, -(-padding // stride))
        start = (begin - skipped) * stride
        stop = length if end == total else min(length, (end - 1) * stride - padding + field)
        yield Tile(start, stop - start, skipped, end - begin)
