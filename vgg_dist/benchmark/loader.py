"""`benchmark loader`: compares this loader with the stock DALI pipeline, torchvision's loaders and `--peers`.

All loaders process the same images with the same S, crops, flips and colour shifts (one EpochPlan), produce normalised float
batches on the device, and run on the same CPU cores. They are measured alternately, and also beside decoding alone, which is
a lower bound. An untimed first round brings the files into the page cache, and compares each loader's pixels with
`pipelines.loading.reference_loader`, which is torchvision's resize-then-crop of the same plan. The peers
(`vgg_dist.benchmark.peers`) run in separate processes, which are idle except for their turn.
"""

from __future__ import annotations

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
from vgg_dist.benchmark.cores import limited_to_cores
from vgg_dist.benchmark.loaders import decoding_alone, ours, stock_dali, torchvision_dataloader, torchvision_v2
from vgg_dist.benchmark.options import LoaderBenchmark, PeerName
from vgg_dist.benchmark.peers import PEERS, PeerError
from vgg_dist.benchmark.peers.environments import interpreter
from vgg_dist.benchmark.peers.process import PeerProcess
from vgg_dist.benchmark.pixels import CHECK_HINT, compare_peer, compare_pixels
from vgg_dist.benchmark.report import describe_machine, machine_line, paired_ratio, spread, table, write_json
from vgg_dist.benchmark.work import Epoch, Work, epoch_seconds
from vgg_dist.models.specs import MODELS

OURS, DALI, DECODING_ALONE = "this loader", "stock DALI chain", "floor: decoding alone"
TORCHVISION, TORCHVISION_V2 = "torchvision DataLoader", "torchvision v2"
LOADERS: dict[str, Callable[[Work], Epoch]] = {
    OURS: ours,
    DALI: stock_dali,
    TORCHVISION: torchvision_dataloader,
    TORCHVISION_V2: torchvision_v2,
    DECODING_ALONE: decoding_alone,
}
Figures = dict[str, dict[str, Any]]


def run_loader(options: LoaderBenchmark) -> None:
    """Measures, prints and saves. Raises ValueError, one line, for unreadable data or a machine that lacks the GPU."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device; allowed: cpu")
    threads_before = torch.get_num_threads()
    with limited_to_cores(options.threads):
        torch.set_num_threads(options.threads)
        try:
            figures = measure(options)
        finally:
            torch.set_num_threads(threads_before)
    print(report(options, figures))
    if options.json is not None:
        write_json(options.json, options, {"loaders": figures})


def measure(options: LoaderBenchmark) -> Figures:
    """The results of each loader, by its name in the table.

    `images_per_second`: of each round. `difference_mean` and `difference_worst`: of its pixels, in grey levels (not for
    decoding alone). For a peer, also `versions` and `prepared_bytes`; or, if it cannot be measured, `not_run`: the reason.
    """
    work = plan_work(options)
    epochs = {name: set_up(work) for name, set_up in LOADERS.items()}
    figures: Figures = {name: {"images_per_second": []} for name in epochs}
    differences = compare_pixels(work, {name: epoch for name, epoch in epochs.items() if name != DECODING_ALONE})
    for name, difference in differences.items():
        figures[name] |= difference
    for _ in epochs[DECODING_ALONE]():
        pass
    turns: dict[str, Callable[[], float]] = {name: partial(epoch_seconds, work, epoch) for name, epoch in epochs.items()}
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
    """The peer's process, a context manager; it writes below `folder`. PeerError if its packages cannot be installed."""
    python = interpreter(name, PEERS[name])
    distributions = [requirement.partition(">")[0] for requirement in PEERS[name].requirements]
    return PeerProcess(name, python, distributions, work, folder / name)


def in_turn(names: list[str], rounds: int) -> Iterator[str]:
    """Every name once per round, with a progress bar."""
    yield from Progress(names * rounds, "measuring", unit="turn")


def plan_work(options: LoaderBenchmark) -> Work:
    """The first images of an epoch of the training that `options` describe. Raises ValueError for unreadable data."""
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
    """The table of results, the differences of the peers' work, and the settings and machine."""
    rows = []
    for name, figure in figures.items():
        if "not_run" in figure:
            rows.append([name, "not run", *[""] * 5])
            continue
        rates = figure["images_per_second"]
        pixels = [f"{figure[key]:.3f}" if key in figure else "" for key in ("difference_mean", "difference_worst")]
        rows.append([name, *spread(rates), f"{paired_ratio(figures[OURS]['images_per_second'], rates):.2f}", *pixels])
    headings = ["", "images/s", "min", "max", "speedup of ours", "pixel difference", "worst image"]
    return "\n".join(
        [
            table(headings, rows),
            f"Median of {options.rounds} alternating rounds; S {options.train_scale}, crops of {options.image_size} px, "
            f"batches of {options.batch}, {options.threads} threads on as many CPU cores, decoding on {options.device}, "
            "files in the page cache.",
            "Pixels: mean absolute difference from torchvision's resize-then-crop, on the 0-255 scale.",
            *(peer_line(PEERS[peer].title, PEERS[peer].note, figures) for peer in options.peer_names()),
            machine_line(describe_machine()),
        ]
    )


def peer_line(title: str, note: str, figures: Figures) -> str:
    """A peer's version and how its work differs, or why it was not run."""
    figure = figures[title]
    if "not_run" in figure:
        return f"{title}: not run: {figure['not_run']}"
    written = f"{figure['prepared_bytes'] / 1e6:.1f} MB written in advance, untimed" if figure["prepared_bytes"] else ""
    return f"{title} {next(iter(figure['versions'].values()))}: {'; '.join(filter(None, [note, written]))}."
