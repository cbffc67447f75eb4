"""FFCV: a .beton file of JPEGs, decoded and resized in compiled threads of one process; torch normalises batches.

FFCV's random decoders draw their own crops. `PlannedCrop` is its RandomResizedCropRGBImageDecoder with the planned crops and
flips: it cuts the part under the crop out of the image, at whole pixels, and resizes it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField  # type: ignore[import-not-found]
from ffcv.fields.decoders import IntDecoder  # type: ignore[import-not-found]
from ffcv.fields.rgb_image import ResizedCropRGBImageDecoder  # type: ignore[import-not-found]
from ffcv.libffcv import imdecode, resize_crop  # type: ignore[import-not-found]
from ffcv.loader import Loader, OrderOption  # type: ignore[import-not-found]
from ffcv.pipeline.compiler import Compiler  # type: ignore[import-not-found]
from ffcv.transforms import ToTensor, ToTorchImage  # type: ignore[import-not-found]
from ffcv.writer import DatasetWriter  # type: ignore[import-not-found]
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vgg_dist.benchmark.work import PlacedEpoch, Work

JPEG_QUALITY = 90  # FFCV's default, also in its ImageNet recipe


class PlannedCrop(ResizedCropRGBImageDecoder):
    """Decodes the planned crops.

    `crops`: int64 (n, 4) as (top, left, height, width) in the stored images; `flips`: bool (n,).
    """

    get_crop_generator = None  # with it, the base class would draw random crops

    def __init__(self, size: int, crops: NDArray[np.int64], flips: NDArray[np.bool_]) -> None:
        super().__init__((size, size))
        self.crops, self.flips = crops, flips

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV compiles: from the encoded images of a batch to crops (n, size, size, 3) uint8."""
        read, images = self.memory_read, Compiler.get_iterator()
        imdecode_c, resize_crop_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)
        crops, flips = self.crops, self.flips

        def decode(batch_indices, my_storage, metadata, storage_state):  # type: ignore[no-untyped-def]
            destination, whole = my_storage
            for row in images(len(batch_indices)):
                position = batch_indices[row]
                field = metadata[position]
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                encoded = read(field["data_ptr"], storage_state)
                imdecode_c(encoded, whole[row], height, width, height, width, 0, 0, 1, 1, False, False)
                image = whole[row].reshape(-1)[: 3 * height * width].reshape(height, width, 3)
                top, left, rows, columns = crops[position]
                resize_crop_c(image, top, top + rows, left, left + columns, destination[row])
                if flips[position]:
                    destination[row] = destination[row][:, ::-1].copy()
            return destination[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


class Photographs:
    """The data set for FFCV's writer: RGB arrays, each with its position in the epoch."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __len__(self) -> int:
        return len(self.work.samples)

    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], int]:
        image = Image.open(io.BytesIO(self.work.read(position))).convert("RGB")
        return np.asarray(image), int(position)


def source_crops(work: Work) -> NDArray[np.int64]:
    """The parts of the source images under the crops: int64 (n, 4) as (top, left, height, width)."""
    start = np.round(work.corner * work.source / work.resized).astype(np.int64)
    shape = np.round(work.preprocessing.image_size * work.source / work.resized).astype(np.int64)
    shape = np.clip(shape, 1, work.source)
    return np.concatenate([np.minimum(start, work.source - shape), shape], axis=1)


def set_up(work: Work, folder: Path) -> PlacedEpoch:
    """Writes the .beton file to `folder`, and opens FFCV's loader on it."""
    file = str(folder / "images.beton")
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=JPEG_QUALITY), "position": IntField()}
    DatasetWriter(file, fields, num_workers=work.threads).from_indexed_dataset(Photographs(work))
    crop = PlannedCrop(work.preprocessing.image_size, source_crops(work), work.samples.flip)
    loader = Loader(
        file,
        batch_size=work.batch,
        num_workers=work.threads,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines={"image": [crop, ToTensor(), ToTorchImage()], "position": [IntDecoder(), ToTensor()]},
    )
    std = torch.tensor(work.preprocessing.std, device=work.device)[:, None, None]

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for images, places in loader:
            positions = places.reshape(-1).clone()
            means = torch.from_numpy(work.means(positions.numpy())).to(work.device)
            yield positions, images.to(work.device).float().sub_(means[:, :, None, None]).div_(std)

    return epoch
