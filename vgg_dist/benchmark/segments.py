"""`benchmark segments`: what the width of a JPEG's segments costs in bytes, and what it saves in reading and decoding.

`pipelines.prepare shard` divides JPEGs into segments, so that the loader cuts a window out of the file and decodes only that
(`pipelines.stores.restart_table`). In narrow segments cut-outs are hardly larger than windows, but each segment adds bytes.
Here the same images are transcoded once per width, and cut-outs are made as in training, under the crops of an EpochPlan.

Only DALI's decoding on the CPU is timed. Transcoding, reading and cutting are not. All widths and scales are measured
alternately; an untimed first round counts the bytes that are read and the pixels of the JPEGs that DALI is given.

    python -m vgg_dist.benchmark segments --data /data/imagenet --images 500 --threads 2
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
import torch

from pipelines.failures import first_cause
from pipelines.loading.dali_graph import Decoding, WindowGraph
from pipelines.loading.dali_inputs import DaliInputs, PreparedBatch, empty_batch
from pipelines.loading.epoch_plan import Augmentation, EpochPlan, Samples
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.readers import Readers
from pipelines.loading.reference_loader import ReferenceLoader
from pipelines.pixels import refusal
from pipelines.preparation.restart_markers import NOT_INSTALLED, WIDE_IMAGE, find_jpegtran, with_restart_markers
from pipelines.progress import Progress
from pipelines.stores.open import open_store
from vgg_dist.benchmark.cores import limited_to_cores
from vgg_dist.benchmark.images_in_memory import ImagesInMemory
from vgg_dist.benchmark.loaders import decoding_pipeline
from vgg_dist.benchmark.options import SegmentsBenchmark
from vgg_dist.benchmark.pixels import CHECK_HINT
from vgg_dist.benchmark.report import describe_machine, machine_line, table, write_json
from vgg_dist.models.specs import MODELS

BATCH = 64  # images that DALI is given at a time
NONE = "none"  # images as they are, without restart markers
Figures = dict[str, dict[str, Any]]


class WindowDecoder:
    """DALI decodes the windows of batches, as in our loader on a CPU, and does nothing else."""

    def __init__(self, preprocessing: Preprocessing, threads: int) -> None:
        self.graph = WindowGraph(preprocessing)
        self.given: list[tuple[Any, ...]] = []

        def batches() -> Iterator[tuple[Any, ...]]:
            yield from self.given

        types = self.graph.inputs(empty_batch())
        self.pipeline = decoding_pipeline(Decoding("cpu", regions=True, cut_outs=True), types, batches, BATCH, threads, None)

    def seconds(self, prepared: list[PreparedBatch]) -> float:
        """Seconds to decode these batches. Raises ValueError for an image that DALI cannot decode."""
        self.given = [tuple(values for values, _, _ in self.graph.inputs(batch).values()) for batch in prepared]
        start = time.perf_counter()
        try:
            for _ in self.given:
                self.pipeline.run()
        except RuntimeError as error:
            raise ValueError(f"--data: DALI cannot decode an image: {first_cause(str(error))}") from None
        seconds = time.perf_counter() - start
        self.pipeline.reset()
        return seconds


def run_segments(options: SegmentsBenchmark) -> None:
    """Measures, prints and saves. Raises ValueError, one line, for unreadable data or a machine without jpegtran."""
    if (jpegtran := find_jpegtran()) is None:
        raise ValueError(f"segments: {NOT_INSTALLED}")
    with limited_to_cores(options.threads):
        figures = measure(options, jpegtran)
    print(report(options, figures))
    if options.json is not None:
        write_json(options.json, options, {"segments": figures})


def measure(options: SegmentsBenchmark, jpegtran: str) -> Figures:
    """The results for "none" and each width, by its name.

    `images`: how many. `images_cut`: how many of them have restart markers. `bytes_added`: as a fraction of the originals.
    `scales`: by training scale, `images_per_second` of each round, and what `counted` returns.
    """
    originals = read_images(options)
    stores = {NONE: originals} | {width: transcoded(originals, width, jpegtran, options.threads) for width in options.widths}
    scales = {scale: Augmentation(ends.ends) for scale, ends in options.scales().items()}
    plans = {scale: EpochPlan(len(originals), 0, 0, augmentation).samples for scale, augmentation in scales.items()}
    figures: Figures = {
        name: {
            "images": len(store),
            "images_cut": int(store.can_cut_out(np.arange(len(store))).sum()),
            "bytes_added": store.total_bytes / originals.total_bytes - 1,
            "scales": {scale: {"images_per_second": []} for scale in plans},
        }
        for name, store in stores.items()
    }
    spec, device = MODELS["E"], torch.device("cpu")
    preprocessing = Preprocessing(spec.image_size, spec.pixel_mean, spec.pixel_std)
    loaders = {name: ReferenceLoader(store, preprocessing, options.threads, device) for name, store in stores.items()}
    inputs = {name: DaliInputs(loader, decodes_windows=True, cut_outs=True) for name, loader in loaders.items()}
    decoder = WindowDecoder(preprocessing, options.threads)
    turns = [(scale, name) for scale in plans for name in stores]
    for number, (scale, name) in enumerate(Progress(turns * (options.rounds + 1), "measuring", unit="turn")):
        stores[name].reads.clear()
        prepared = prepare(inputs[name], plans[scale], options.threads)
        seconds, figure = decoder.seconds(prepared), figures[name]["scales"][scale]
        if number < len(turns):
            figure |= counted(stores[name].reads, prepared, originals)
        else:
            figure["images_per_second"].append(len(originals) / seconds)
    return figures


def counted(reads: list[tuple[int, int]], prepared: list[PreparedBatch], originals: ImagesInMemory) -> dict[str, float]:
    """`bytes_read` and `pixels_decoded`, and `window_pixels`, those of the windows alone, as fractions of the originals."""
    window_pixels = sum(int(batch.window.shape.prod(axis=1).sum()) for batch in prepared)
    return {
        "bytes_read": sum(size for size, _ in reads) / originals.total_bytes,
        "pixels_decoded": sum(pixels for _, pixels in reads) / originals.total_pixels,
        "window_pixels": window_pixels / originals.total_pixels,
    }


def read_images(options: SegmentsBenchmark) -> ImagesInMemory:
    """The first images of an epoch. Raises ValueError if one cannot be decoded, or has restart markers already."""
    store = open_store(options.data, "train")
    indices = EpochPlan(len(store), seed=0, epoch=0, augmentation=Augmentation()).samples.index[: options.images]
    if store.can_cut_out(indices).any():
        raise ValueError(f"--data {options.data}: has restart markers; must be the images that the shards were made from")
    encoded = []
    for index in Progress(indices.tolist(), "reading", unit="image"):
        try:
            encoded.append(store.read(index))
            wrong = refusal(encoded[-1])
        except OSError as error:
            wrong = str(error)
        if wrong is not None:
            raise ValueError(f"--data {options.data}: {store.name(index)}: {wrong}; {CHECK_HINT}")
    return ImagesInMemory(encoded, [store.name(index) for index in indices.tolist()], can_cut=False)


def transcoded(originals: ImagesInMemory, width: str, jpegtran: str, threads: int) -> ImagesInMemory:
    """The images with segments of this width, px or "row"; those that have to stay as they are, stay."""
    segment_width = math.inf if width == "row" else int(width)

    def transcode(image: bytes) -> bytes:
        return with_restart_markers(image, jpegtran, segment_width=segment_width) or image

    with ThreadPoolExecutor(threads) as pool:
        images = pool.map(transcode, originals.encoded)
        images = Progress(images, f"transcoding, {width}", total=len(originals), unit="image")
        return ImagesInMemory(list(images), originals.names, can_cut=True)


def prepare(inputs: DaliInputs, samples: Samples, threads: int) -> list[PreparedBatch]:
    """The batches as our loader gives them to DALI: images or cut-outs, and windows."""
    with Readers(threads) as readers:
        return [inputs.prepare([samples[first : first + BATCH]], readers) for first in range(0, len(samples), BATCH)]


def report(options: SegmentsBenchmark, figures: Figures) -> str:
    """The table of results, and the settings and machine."""
    headings, none, images = ["segment\nwidth", "bytes\nadded"], figures[NONE], figures[NONE]["images"]
    for scale in options.scales():
        headings += [f"S {scale}\nimages/s", "bytes\nread", "pixels\ndecoded"]
    rows = []
    for name, figure in figures.items():
        row = [f"{name} px" if name.isdecimal() else name, f"{figure['bytes_added']:+.1%}"]
        for at_scale in figure["scales"].values():
            rate = f"{median(at_scale['images_per_second']):.1f}"
            row += [rate, f"{at_scale['bytes_read']:.1%}", f"{at_scale['pixels_decoded']:.1%}"]
        rows.append(row)
    windows = ", ".join(f"{at_scale['window_pixels']:.1%} at S {scale}" for scale, at_scale in none["scales"].items())
    cut = min(figure["images_cut"] for name, figure in figures.items() if name != NONE)
    return "\n".join(
        [
            table(headings, rows),
            f"Median of {options.rounds} alternating rounds; {images} images, {cut} of them with restart markers; crops of "
            f"{MODELS['E'].image_size} px, batches of {BATCH}, {options.threads} threads on as many CPU cores.",
            "Images/s are of DALI's decoding on the CPU alone; reading files and cutting windows out of them are not timed.",
            f"Shares are of the bytes and pixels of the images as they are. The windows alone have {windows} of the pixels.",
            "Pixels decoded are those of the JPEGs that DALI is given. Without restart markers these are whole images, and",
            "DALI skips part of the work outside the windows.",
            "A segment has the number of MCUs (8 or 16 px wide) that divides a row and is nearest to the width; in images",
            f"over {WIDE_IMAGE} px wide, widths grow in proportion.",
            machine_line(describe_machine()),
        ]
    )
