"""The page of augmentations: what a training's scale, crop, flip and colour shift make of pictures, before it is started.

python -m vgg_dist.visualize augmentations --data /data/imagenet --train-scale 256-512

The crops come from the training's own loader, and those of all ways together are the ones that its first epochs will use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.loading.epoch_plan import EpochPlan, Samples, concatenate, evaluation_samples
from pipelines.loading.loader import Loader
from pipelines.loading.open import loader_threads, open_loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.stores.open import open_store
from pipelines.stores.pictures import Pictures
from pipelines.stores.sample_store import SampleStore
from vgg_dist.config import TrainSettings
from vgg_dist.config.visualize import AugmentationPictures
from vgg_dist.models.specs import MODELS
from vgg_dist.training.data import augmentation
from vgg_dist.visualization.page import Page, Picture, Section
from vgg_dist.visualization.tiles import mosaic, opaque, png, resized

TILE = 112  # pixels


def draw_augmentations(options: AugmentationPictures) -> Page:
    """The page. ValueError or OSError, one line, for what stops it."""
    config = options.train.resolved()
    store = _open(options, config)
    shown = len(store) if options.pictures else min(options.images, len(store))
    indices = np.linspace(0, len(store) - 1, shown).round().astype(np.int64)
    drawn = [_of_epoch(config, store, epoch, indices) for epoch in range(options.draws)]
    plain = evaluation_samples(indices, config.val_scale)
    loader = _open_loader(store, config)
    sections = [_section(way, text, columns, loader, plain) for way, text, columns in _ways(config, plain, drawn)]
    text = "On the left in every row is the image as a validation sees it, beside it what the training makes of it."
    return Page(f"augmentations-{config.arch}", "What the net is given", (text, config.command_line()), sections)


def _ways(config: TrainSettings, plain: Samples, drawn: list[Samples]) -> Iterator[tuple[str, str, list[Samples]]]:
    """Each way of augmentation: its name, what is shown, and the images with it alone; without it, none. The last is all."""
    low, high = config.train_scale.ends
    scales = np.linspace(low, high, len(drawn)).round().astype(np.int32)
    scaled = [replace(plain, scale=np.full(len(plain), scale, np.int32)) for scale in scales]
    yield f"Scale: S from {low} to {high}", "The whole range from left to right, cropped in the middle.", scaled
    padded = f", padded by {config.pad}" if config.pad else ""
    cropped = [replace(plain, position=each.position) for each in drawn]
    yield "Crop", f"Positions as drawn, at S = {config.val_scale}{padded}.", cropped
    mirrored = [replace(plain, flip=np.ones(len(plain), np.bool_))]
    yield ("Flip", "Half of the images are mirrored.", mirrored) if config.flip else ("Flip", "Off.", [])
    colors = f"Standard deviation {config.color_shift:g} along ImageNet's principal colour components."
    shifted = [replace(plain, shift=each.shift) for each in drawn]
    yield ("Colour shift", colors, shifted) if config.color_shift else ("Colour shift", "Off.", [])
    yield "All together", f"What epochs 1 to {len(drawn)} of this training use, seed {config.seed}.", drawn


def _open(options: AugmentationPictures, config: TrainSettings) -> SampleStore:
    if not options.pictures:
        return open_store(config.data, "train", quarantine=config.quarantine)
    store = Pictures(options.pictures, config.max_pixels)
    for picture, why in store.failed.items():
        raise ValueError(f"--pictures {picture}: {why}")
    return store


def _open_loader(store: SampleStore, config: TrainSettings) -> Loader:
    spec = MODELS[config.arch]
    preprocessing = Preprocessing(
        config.image_size, spec.pixel_mean, spec.pixel_std, pad=config.pad, max_pixels=config.max_pixels
    )
    return open_loader(
        store, preprocessing, num_threads=loader_threads(config.loader_threads), max_batch=64, device=torch.device("cpu")
    )


def _of_epoch(config: TrainSettings, store: SampleStore, epoch: int, indices: NDArray[np.int64]) -> Samples:
    """What an epoch draws for the images at `indices`."""
    shards = store.shards() if config.shuffle == "blocks" else None
    plan = EpochPlan(len(store), config.seed, epoch, augmentation(config), shards)
    row_of = np.argsort(plan.samples.index)
    return plan.samples.at(row_of[indices])


def _section(way: str, text: str, columns: list[Samples], loader: Loader, plain: Samples) -> Section:
    """A row for each image, with a column for each of `columns`, after the plain crop."""
    if not columns:
        return Section(way, (text,))
    number, spec = len(plain), loader.preprocessing
    samples = concatenate([plain, *columns])
    parts = [samples[first : first + 64] for first in range(0, len(samples), 64)]
    crops = chain.from_iterable(batch.images.permute(0, 2, 3, 1).numpy() for batch in loader.batches(parts))
    levels = [np.clip(np.rint(crop * spec.std + spec.mean), 0, 255).astype(np.uint8) for crop in crops]
    tiles = [resized(opaque(each), TILE) for each in levels]
    in_rows = [tiles[column * number + row] for row in range(number) for column in range(len(columns) + 1)]
    picture = Picture(
        png(mosaic(in_rows, columns=len(columns) + 1, gap=3)), text, f"{way.partition(':')[0].lower()}.png".replace(" ", "-")
    )
    return Section(way, pictures=[picture], width=44)
