"""`benchmark loader`: this loader, the stock DALI chain, torchvision's DataLoader, and the floor, in turn.

All have the same images in the same order with the same S, crops, flips and colour shifts (one EpochPlan), end with
normalised float batches on the device, and run on the same CPU cores. Files are in the page cache, as every loader reads
them once before the timed rounds. In that untimed round each loader's pixels are compared with `pipelines.reference`:
torchvision's resize-then-crop of the same plan.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from statistics import mean
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pipelines.batch import Preprocessing
from pipelines.plan import Augmentation, EpochPlan
from pipelines.reference import ReferenceLoader
from pipelines.store import open_store
from vgg_dist.benchmark.contestants import Epoch, Work, ours, stock_dali, torchvision_dataloader, windowed_decode
from vgg_dist.benchmark.cores import held_to_cores
from vgg_dist.benchmark.options import LoaderBenchmark
from vgg_dist.benchmark.report import describe_machine, machine_line, paired_ratio, spread, table, write_json
from vgg_dist.specs import MODELS

OURS, DALI, TORCHVISION, FLOOR = "this loader", "stock DALI chain", "torchvision DataLoader", "floor: windowed decode alone"
CONTESTANTS: dict[str, Callable[[Work], Epoch]] = {
    OURS: ours,
    DALI: stock_dali,
    TORCHVISION: torchvision_dataloader,
    FLOOR: windowed_decode,
}
CHECK_HINT = "python -m pipelines.prepare check finds all such images and has them left out"


def run_loader(options: LoaderBenchmark) -> None:
    """Measures, prints and writes. ValueError, one line, for data that cannot be read or a machine that does not fit."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        raise ValueError(
            "loader: DALI is not installed here (it has no build for this system), so there is nothing to compare"
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device; allowed: cpu")
    threads_before = torch.get_num_threads()
    with held_to_cores(options.threads):
        torch.set_num_threads(options.threads)
        try:
            figures = measure(options)
        finally:
            torch.set_num_threads(threads_before)
    print(report(options, figures))
    if options.json is not None:
        write_json(options.json, options, {"loaders": figures})


def measure(options: LoaderBenchmark) -> dict[str, dict[str, Any]]:
    """For each contestant: images/s of each round and, but for the floor, the pixels' mean difference in grey levels."""
    work = plan_work(options)
    epochs = {name: set_up(work) for name, set_up in CONTESTANTS.items()}
    differences = compare_pixels(work, {name: epoch for name, epoch in epochs.items() if name != FLOOR})
    for _ in epochs[FLOOR]():
        pass
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    with tqdm(total=options.rounds * len(epochs), desc="measuring", unit="turn") as progress:
        for _ in range(options.rounds):
            for name, epoch in epochs.items():
                rates[name].append(_images_per_second(work, epoch))
                progress.update()
    return {name: {"images_per_second": rates[name]} | differences.get(name, {}) for name in epochs}


def plan_work(options: LoaderBenchmark) -> Work:
    """The first images of an epoch of the training that `options` describe. ValueError for data that cannot be read."""
    store = open_store(options.data, "train")
    scale = (options.train_scale[0], options.train_scale[-1])
    samples = EpochPlan(len(store), seed=0, epoch=0, augmentation=Augmentation(scale)).samples[: options.images]
    spec = MODELS["E"]
    preprocessing = Preprocessing(options.image_size, spec.pixel_mean, spec.pixel_std)
    device = torch.device(options.device)
    reader = ReferenceLoader(store, preprocessing, options.threads, device)
    shapes = []
    for index in tqdm(samples.index.tolist(), "reading headers", unit="image"):
        try:
            shapes.append(reader.read(index)[1])
        except OSError as error:
            raise ValueError(f"--data {options.data}: {store.name(index)}: {error}; {CHECK_HINT}") from None
    source = np.array(shapes, np.int64)
    resized, corner = preprocessing.geometry(source, samples)
    return Work(store, samples, source, resized, corner, preprocessing, options.batch, options.threads, device)


def compare_pixels(work: Work, epochs: dict[str, Epoch]) -> dict[str, dict[str, float]]:
    """Each loader's mean absolute difference from the reference: over all images, and of the worst one, in grey levels.

    ValueError for images that cannot be decoded: the loaders deal with them in different ways.
    """
    cpu = torch.device("cpu")
    reference = ReferenceLoader(work.store, work.preprocessing, work.threads, cpu)
    differences: dict[str, list[float]] = {name: [] for name in epochs}
    walks = zip(reference.batches(work.micro_batches()), *(epoch() for epoch in epochs.values()), strict=True)
    try:
        for expected, *batches in tqdm(walks, "comparing pixels", total=len(list(work.parts())), unit="batch"):
            for name, images in zip(epochs, batches, strict=True):
                # The standard deviation is 1: normalised values are a grey level apart where pixels are.
                differences[name] += (images.to(cpu) - expected.images).abs().mean(dim=(1, 2, 3)).tolist()
    except Exception:  # DALI and the workers of the DataLoader raise several kinds
        if not reference.bad_images:
            raise
    if reference.bad_images:
        bad = "; ".join(list(reference.bad_images.values())[:3])
        raise ValueError(f"--data: {len(reference.bad_images)} images cannot be decoded: {bad}; {CHECK_HINT}")
    return {name: {"difference_mean": mean(each), "difference_worst": max(each)} for name, each in differences.items()}


def _images_per_second(work: Work, epoch: Epoch) -> float:
    start = time.perf_counter()
    for _ in epoch():
        pass
    if work.device.type == "cuda":
        torch.cuda.synchronize(work.device)
    return len(work.samples) / (time.perf_counter() - start)


def report(options: LoaderBenchmark, figures: dict[str, dict[str, Any]]) -> str:
    """The table, and what it was measured on."""
    rows = []
    for name, figure in figures.items():
        rates = figure["images_per_second"]
        pixels = [f"{figure[key]:.3f}" if key in figure else "" for key in ("difference_mean", "difference_worst")]
        rows.append([name, *spread(rates), f"{paired_ratio(figures[OURS]['images_per_second'], rates):.2f}", *pixels])
    headings = ["", "images/s", "min", "max", "this loader, times", "pixels off by", "worst image"]
    low, high = options.train_scale[0], options.train_scale[-1]
    return (
        f"{table(headings, rows)}\n"
        f"Median of {options.rounds} rounds, in turn; S in [{low}, {high}], crops of {options.image_size} px, batches of "
        f"{options.batch}, {options.threads} threads on as many CPU cores, decoding on {options.device}, files in the page "
        "cache.\nPixels: mean absolute difference from torchvision's resize-then-crop, in grey levels of 255.\n"
        f"{machine_line(describe_machine())}"
    )
