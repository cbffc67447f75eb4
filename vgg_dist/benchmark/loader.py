"""`benchmark loader`: this loader, the stock DALI chain, torchvision's loaders, the floor, and `--peers`, in turn.

All have the same images with the same S, crops, flips and colour shifts (one EpochPlan), end with normalised float batches
on the device, and run on the same CPU cores. Files are in the page cache, as every loader reads them once before the timed
rounds. In that untimed round each loader's pixels are compared with `pipelines.loading.reference_loader`: torchvision's
resize-then-crop of the same plan. The peers (`vgg_dist.benchmark.peers`) are processes of their own, idle but in their turn.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.reference_loader import ReferenceLoader
from pipelines.progress import Progress
from pipelines.stores.open import open_store
from vgg_dist.benchmark.contestants import decoding_alone, ours, stock_dali, torchvision_dataloader, torchvision_v2
from vgg_dist.benchmark.cores import held_to_cores
from vgg_dist.benchmark.options import LoaderBenchmark, PeerName
from vgg_dist.benchmark.peers import PEERS, PeerError
from vgg_dist.benchmark.peers.environments import interpreter
from vgg_dist.benchmark.peers.process import PeerProcess
from vgg_dist.benchmark.pixels import CHECK_HINT, compare_peer, compare_pixels
from vgg_dist.benchmark.report import describe_machine, machine_line, paired_ratio, spread, table, write_json
from vgg_dist.benchmark.work import Epoch, Work, walk_seconds
from vgg_dist.models.specs import MODELS

OURS, DALI, FLOOR = "this loader", "stock DALI chain", "floor: decoding alone"
TORCHVISION, TORCHVISION_V2 = "torchvision DataLoader", "torchvision v2"
CONTESTANTS: dict[str, Callable[[Work], Epoch]] = {
    OURS: ours,
    DALI: stock_dali,
    TORCHVISION: torchvision_dataloader,
    TORCHVISION_V2: torchvision_v2,
    FLOOR: decoding_alone,
}
Figures = dict[str, dict[str, Any]]


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


def measure(options: LoaderBenchmark) -> Figures:
    """For each loader, by its name in the table.

    `images_per_second` of each round, `difference_mean` and `difference_worst` of its pixels in grey levels (not the
    floor's), a peer's `versions` and `prepared_bytes`; of a peer that cannot be measured, `not_run`: why.
    """
    work = plan_work(options)
    epochs = {name: set_up(work) for name, set_up in CONTESTANTS.items()}
    figures: Figures = {name: {"images_per_second": []} for name in epochs}
    differences = compare_pixels(work, {name: epoch for name, epoch in epochs.items() if name != FLOOR})
    for name, difference in differences.items():
        figures[name] |= difference
    for _ in epochs[FLOOR]():
        pass
    turns: dict[str, Callable[[], float]] = {name: partial(walk_seconds, work, epoch) for name, epoch in epochs.items()}
    with tempfile.TemporaryDirectory(prefix="benchmark-peers-") as folder, ExitStack() as processes:
        for peer in options.peer_names():
            title = PEERS[peer].title
            try:
                process = processes.enter_context(start_peer(peer, work, Path(folder)))
                figures[title] = {"images_per_second": [], "versions": process.versions}
                figures[title] |= {"prepared_bytes": process.prepared_bytes()} | compare_peer(work, process.epoch())
                turns[title] = process.seconds
            except PeerError as error:
                figures[title] = {"not_run": str(error)}
        for name in in_turn(list(turns), options.rounds):
            if "not_run" in figures[name]:
                continue
            try:
                figures[name]["images_per_second"].append(len(work.samples) / turns[name]())
            except PeerError as error:
                figures[name] = {"not_run": str(error)}
    return figures


def start_peer(name: PeerName, work: Work, folder: Path) -> PeerProcess:
    """The peer's process, to be entered; it writes below `folder`. PeerError if its packages cannot be installed."""
    python = interpreter(name, PEERS[name])
    distributions = [requirement.partition(">")[0] for requirement in PEERS[name].requirements]
    return PeerProcess(name, python, distributions, work, folder / name)


def in_turn(names: list[str], rounds: int) -> Iterator[str]:
    """Every name once a round, with a progress bar."""
    yield from Progress(names * rounds, "measuring", unit="turn")


def plan_work(options: LoaderBenchmark) -> Work:
    """The first images of an epoch of the training that `options` describe. ValueError for data that cannot be read."""
    store = open_store(options.data, "train")
    samples = EpochPlan(len(store), seed=0, epoch=0, augmentation=Augmentation(options.train_scale.ends)).samples[
        : options.images
    ]
    spec = MODELS["E"]
    preprocessing = Preprocessing(options.image_size, spec.pixel_mean, spec.pixel_std)
    device = torch.device(options.device)
    reader = ReferenceLoader(store, preprocessing, options.threads, device)
    shapes = []
    for index in Progress(samples.index.tolist(), "reading headers", unit="image"):
        try:
            shapes.append(reader.read(index)[1])
        except OSError as error:
            raise ValueError(f"--data {options.data}: {store.name(index)}: {error}; {CHECK_HINT}") from None
    source = np.array(shapes, np.int64)
    resized, corner = preprocessing.geometry(source, samples)
    return Work(options.data, store, samples, source, resized, corner, preprocessing, options.batch, options.threads, device)


def report(options: LoaderBenchmark, figures: Figures) -> str:
    """The table, what the peers' rows mean, and what it was measured on."""
    rows = []
    for name, figure in figures.items():
        if "not_run" in figure:
            rows.append([name, "not run", *[""] * 5])
            continue
        rates = figure["images_per_second"]
        pixels = [f"{figure[key]:.3f}" if key in figure else "" for key in ("difference_mean", "difference_worst")]
        rows.append([name, *spread(rates), f"{paired_ratio(figures[OURS]['images_per_second'], rates):.2f}", *pixels])
    headings = ["", "images/s", "min", "max", "this loader, times", "pixels off by", "worst image"]
    return "\n".join(
        [
            table(headings, rows),
            f"Median of {options.rounds} rounds, in turn; S {options.train_scale}, crops of {options.image_size} px, "
            f"batches of {options.batch}, {options.threads} threads on as many CPU cores, decoding on {options.device}, "
            "files in the page cache.",
            "Pixels: mean absolute difference from torchvision's resize-then-crop, in grey levels of 255.",
            *(peer_line(PEERS[peer].title, PEERS[peer].note, figures) for peer in options.peer_names()),
            machine_line(describe_machine()),
        ]
    )


def peer_line(title: str, note: str, figures: Figures) -> str:
    """A peer's version and what is different in its work, or why it was not run."""
    figure = figures[title]
    if "not_run" in figure:
        return f"{title}: not run: {figure['not_run']}"
    written = f"{figure['prepared_bytes'] / 1e6:.1f} MB written beforehand, untimed" if figure["prepared_bytes"] else ""
    return f"{title} {next(iter(figure['versions'].values()))}: {'; '.join(filter(None, [note, written]))}."
