"""How far the pixels of the loaders are from those of `pipelines.loading.reference_loader`, in grey levels."""

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

CHECK_HINT = "python -m pipelines.prepare check finds all such images and has them left out"


def compare_pixels(work: Work, epochs: dict[str, Epoch]) -> dict[str, dict[str, float]]:
    """Each loader's mean absolute difference from the reference: over all images, and of the worst one, in grey levels.

    ValueError for images that cannot be decoded: the loaders deal with them in different ways.
    """
    cpu = torch.device("cpu")
    reference = ReferenceLoader(work.store, work.preprocessing, work.threads, cpu)
    differences: dict[str, list[float]] = {name: [] for name in epochs}
    walks = zip(reference.batches(work.micro_batches()), *(epoch() for epoch in epochs.values()), strict=True)
    try:
        for expected, *batches in Progress(walks, "comparing pixels", total=len(list(work.parts())), unit="batch"):
            for name, images in zip(epochs, batches, strict=True):
                differences[name] += _difference(images, expected.images)
    except Exception:  # DALI and the workers of the DataLoader raise several kinds
        if not reference.bad_images:
            raise
    if reference.bad_images:
        bad = "; ".join(list(reference.bad_images.values())[:3])
        raise ValueError(f"--data: {len(reference.bad_images)} images cannot be decoded: {bad}; {CHECK_HINT}")
    return {name: _summary(each) for name, each in differences.items()}


def compare_peer(work: Work, batches: Iterable[tuple[NDArray[np.int64], Tensor]]) -> dict[str, float]:
    """The same for one loader that says which positions of the epoch its images have.

    PeerError if it does not give every image once.
    """
    reference = ReferenceLoader(work.store, work.preprocessing, work.threads, torch.device("cpu"))
    differences: list[float] = []
    seen: list[int] = []
    for positions, images in Progress(batches, "comparing pixels", total=len(list(work.parts())), unit="batch"):
        (expected,) = reference.batches([_at(work.samples, positions)])
        differences += _difference(images, expected.images)
        seen += positions.tolist()
    if sorted(seen) != list(range(len(work.samples))):
        raise PeerError(f"it gave {len(seen)} images, {len(set(seen))} of them different, instead of {len(work.samples)}")
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
    # The standard deviation is 1: normalised values are a grey level apart where pixels are.
    return (images.cpu() - expected).abs().mean(dim=(1, 2, 3)).tolist()


def _summary(differences: list[float]) -> dict[str, float]:
    return {"difference_mean": mean(differences), "difference_worst": max(differences)}
