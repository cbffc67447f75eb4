"""Compares the pixels of the loaders with those of `pipelines.loading.reference_loader`, in grey levels."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.loading.epoch_plan import Samples
from pipelines.loading.reference_loader import ReferenceLoader
from pipelines.progress import Progress
from vgg_dist.benchmark.peers import PeerError
from vgg_dist.benchmark.work import Epoch, Work

CHECK_HINT = "python -m pipelines.prepare check finds all such images and quarantines them"


def compare_pixels(work: Work, epochs: dict[str, Epoch]) -> dict[str, dict[str, float]]:
    """Each loader's mean absolute difference from the reference, in grey levels: over all images, and for the worst one.

    Raises ValueError for images that cannot be decoded, because the loaders treat them differently.
    """
    cpu = torch.device("cpu")
    reference = ReferenceLoader(work.store, work.preprocessing, work.threads, cpu)
    differences: dict[str, list[float]] = {name: [] for name in epochs}
    epochs_together = zip(reference.batches(work.micro_batches()), *(epoch() for epoch in epochs.values()), strict=True)
    try:
        for expected, *batches in Progress(epochs_together, "comparing pixels", total=len(list(work.parts())), unit="batch"):
            for name, images in zip(epochs, batches, strict=True):
                differences[name] += _difference(images, expected.images)
    except Exception:  # DALI and the DataLoader's workers raise several types
        if not reference.bad_images:
            raise
    if reference.bad_images:
        bad = "; ".join(list(reference.bad_images.values())[:3])
        raise ValueError(f"--data: {len(reference.bad_images)} images cannot be decoded: {bad}; {CHECK_HINT}")
    return {name: _summary(each) for name, each in differences.items()}


def compare_peer(work: Work, batches: Iterable[tuple[NDArray[np.int64], Tensor]]) -> dict[str, float]:
    """The same for a loader that returns the position in the epoch of each image.

    Raises PeerError if it does not return every image exactly once.
    """
    reference = ReferenceLoader(work.store, work.preprocessing, work.threads, torch.device("cpu"))
    differences: list[float] = []
    seen: list[int] = []
    for positions, images in Progress(batches, "comparing pixels", total=len(list(work.parts())), unit="batch"):
        (expected,) = reference.batches([_at(work.samples, positions)])
        differences += _difference(images, expected.images)
        seen += positions.tolist()
    if sorted(seen) != list(range(len(work.samples))):
        raise PeerError(
            f"it returned {len(seen)} images, {len(set(seen))} of them different, instead of {len(work.samples)}"
        )
    return _summary(differences)


def _at(samples: Samples, positions: NDArray[np.int64]) -> Samples:
    return Samples(
        samples.index[positions],
        samples.scale[positions],
        samples.position[positions],
        samples.flip[positions],
        samples.shift[positions],
    )


def _difference(images: Tensor, expected: Tensor) -> list[float]:
    # The std is 1, so differences of normalised values are differences in grey levels.
    return (images.cpu() - expected).abs().mean(dim=(1, 2, 3)).tolist()


def _summary(differences: list[float]) -> dict[str, float]:
    return {"difference_mean": mean(differences), "difference_worst": max(differences)}
