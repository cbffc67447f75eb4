"""`benchmark evaluation`: images/s of dense evaluation and of 50 crops, and of two simpler ways to evaluate densely.

All use the same images at the same Q, decoded from files, and an untrained net, because weights do not affect the speed. The
simpler ways are: one image at a time; and batches in which all images are padded with black to the largest height and width.
All are measured alternately in one run, on the same cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from pipelines.loading.open import loader_threads
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.whole_images import SizedBatch, WholeImages
from pipelines.progress import Progress
from pipelines.stores.open import open_store
from vgg_dist.benchmark.options import EvaluationBenchmark
from vgg_dist.benchmark.report import describe_machine, machine_line, paired_ratio, table, write_json
from vgg_dist.evaluation.compute import view_images
from vgg_dist.evaluation.views import Viewer
from vgg_dist.models.build import build_model
from vgg_dist.models.dense import fully_convolutional
from vgg_dist.models.precision import apply_precision, autocast_dtype, resolve_precision
from vgg_dist.models.specs import MODELS

DENSE, CROPS = "dense", "50 crops"
CROPS_SHARE = 8  # crops are measured on 1/8 of the images, because they take 14 times as long
ONE, PADDED = "dense, one image at a time", "dense, padded batches"


class EvaluationWays:
    """The ways to evaluate, each a method that takes the indices of the images."""

    def __init__(self, options: EvaluationBenchmark, device: torch.device) -> None:
        spec = MODELS[options.arch]
        size, precision = spec.image_size, resolve_precision(options.precision, device)
        apply_precision(precision)
        dtype = autocast_dtype(precision, device)
        self.options = options
        self.device = device
        self.viewer = Viewer(build_model(options.arch), size, options.micro_batch, device, dtype)
        preprocessing = Preprocessing(size, spec.pixel_mean, spec.pixel_std)
        self.store = open_store(options.data, "train")
        opened = self.store, preprocessing, loader_threads(options.threads), device
        self.whole = WholeImages(*opened, options.micro_batch * size**2)
        self.single = WholeImages(*opened, 1)
        self.shapes: list[tuple[int, ...]] = []

    def dense(self, indices: NDArray[np.int64]) -> None:
        """Our dense evaluation."""
        view_images(self.viewer, self.whole, "dense", self.options.test_scale, indices)

    def crops(self, indices: NDArray[np.int64]) -> None:
        """Our evaluation of 50 crops."""
        view_images(self.viewer, self.whole, "crops", self.options.test_scale, indices)

    def one_at_a_time(self, indices: NDArray[np.int64]) -> None:
        """Dense evaluation in batches of one image."""
        for image in self._single(indices):
            self.viewer.posteriors("dense", image).cpu()

    def padded(self, indices: NDArray[np.int64]) -> None:
        """Dense evaluation of images padded to the largest height and width, with as many per batch as fit."""
        height, width = (max(shape[side] for shape in self.shapes) for side in (0, 1))
        max_images, batch = max(1, self.whole.max_pixels // (height * width)), []
        for image in self._single(indices):
            batch.append(pad(image, (0, width - image.shape[3], 0, height - image.shape[2])))
            if len(batch) == max_images:
                self.viewer.posteriors("dense", torch.cat(batch)).cpu()
                batch = []
        if batch:
            self.viewer.posteriors("dense", torch.cat(batch)).cpu()

    def _single(self, indices: NDArray[np.int64]) -> Iterator[torch.Tensor]:
        """Images (1, C, H, W), without large images, which cannot be batched."""
        batches = self.single.batches(indices, self.options.test_scale)
        return (batch.images for batch in batches if isinstance(batch, SizedBatch))

    def operations(self, indices: NDArray[np.int64]) -> dict[str, float]:
        """Floating-point operations per image, on average, by view."""
        self.shapes = [tuple(image.shape[2:]) for image in self._single(indices)]
        with torch.device("meta"):
            model = build_model(self.options.arch)
        size, channels = self.viewer.image_size, MODELS[self.options.arch].in_channels
        dense = [flops(fully_convolutional(model), channels, shape) for shape in self.shapes]
        return {DENSE: 2 * float(np.mean(dense)), CROPS: 50.0 * flops(model, channels, (size, size))}


def flops(model: torch.nn.Module, channels: int, shape: tuple[int, ...]) -> int:
    """Floating-point operations of a forward pass of one image, counted without computing it."""
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, channels, *shape, device="meta"))
    return counter.get_total_flops()


def run_evaluation(options: EvaluationBenchmark) -> None:
    """Measures, prints and saves. Raises ValueError, one line, for data that cannot be read."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = EvaluationWays(options, device)
    indices = np.arange(min(options.images, len(bench.store)))
    operations = bench.operations(indices)
    ways: dict[str, tuple[Callable[[NDArray[np.int64]], None], NDArray[np.int64]]] = {
        DENSE: (bench.dense, indices),
        ONE: (bench.one_at_a_time, indices),
        PADDED: (bench.padded, indices),
        CROPS: (bench.crops, indices[: max(1, len(indices) // CROPS_SHARE)]),
    }
    bench.dense(indices[:1])  # one-time setup is not timed
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with Progress(total=options.rounds * len(ways), desc="measuring", unit="turn") as progress:
        for _ in range(options.rounds):
            for name, (evaluate, some) in ways.items():
                start = time.perf_counter()
                evaluate(some)
                rates[name].append(len(some) / (time.perf_counter() - start))
                progress.update()
    figures = {name: {"images_per_second": rates[name]} for name in ways}
    print(report(options, device, figures, operations))
    if options.json is not None:
        write_json(options.json, options, {"device": device.type, "evaluation": figures, "flops_per_image": operations})


def report(
    options: EvaluationBenchmark, device: torch.device, figures: dict[str, dict[str, Any]], operations: dict[str, float]
) -> str:
    """The table of results, and the settings and machine."""
    ours = figures[DENSE]["images_per_second"]
    rows = []
    for name, figure in figures.items():
        rates = figure["images_per_second"]
        digits = [f"{value:.3g}" for value in (median(rates), min(rates), max(rates))]
        cost = f"{operations[name] / 1e9:.1f}" if name in operations else ""
        rows.append([name, *digits, f"{paired_ratio(ours, rates):.2f}", cost])
    return (
        f"{table(['', 'images/s', 'min', 'max', 'dense, times', 'GFLOP/image'], rows)}\n"
        f"50 crops take {operations[CROPS] / operations[DENSE]:.2f} times as many operations as dense evaluation.\n"
        f"Median of {options.rounds} alternating rounds; {options.arch} at Q = {options.test_scale}, {options.images}"
        f" images per round (crops: 1/{CROPS_SHARE} of them), micro-batch {options.micro_batch}, {device.type}.\n"
        f"{machine_line(describe_machine())}"
    )
