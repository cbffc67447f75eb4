"""`benchmark checkpoint`: seconds for which a checkpoint blocks training, and until it is complete on the storage.

A training copies its state on the device, and a background thread writes the copy. This is compared with writing the same
files in the training's own thread, which then waits for the storage. Both are measured alternately in one run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from pipelines.paths import join
from pipelines.progress import Progress
from vgg_dist.benchmark.options import CheckpointBenchmark
from vgg_dist.benchmark.report import describe_machine, machine_line, paired_ratio, table, write_json
from vgg_dist.config import TrainSettings
from vgg_dist.storage import open_storage, write_folder
from vgg_dist.training.state import Snapshot, TrainState, build_state
from vgg_dist.weights.checkpoint import CONFIG
from vgg_dist.worker.background_writer import BackgroundWriter

BLOCKING, BACKGROUND, COMPLETE = (
    "written by the training's thread",
    "copied, then written by a thread",
    "complete on the storage",
)


def run_checkpoint(options: CheckpointBenchmark) -> None:
    """Measures, prints and saves. Raises ValueError or OSError, one line, if the storage cannot be written."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    config = options.train_config().resolved()
    state = trained_state(options, device)
    names = [str(label) for label in range(options.num_classes)]
    with tempfile.TemporaryDirectory() as scratch:
        filesystem, folder = open_storage(options.storage_path or scratch)

        def store(name: str, write: Callable[[Path], None]) -> None:
            write_folder(filesystem, join(folder, f"benchmark-{name}"), write, CONFIG)

        seconds: dict[str, list[float]] = {BLOCKING: [], BACKGROUND: [], COMPLETE: []}
        spare: Snapshot | None = None
        for _ in Progress(range(options.rounds + 1), "writing", unit="round"):
            start = _now(device)
            store("at-once", lambda part: state.save(part, config, names))
            seconds[BLOCKING].append(time.perf_counter() - start)
            start = _now(device)
            snapshot = state.snapshot(spare)
            spare = snapshot if device.type == "cpu" else None
            writer: BackgroundWriter[bool] = BackgroundWriter()
            writer.start(lambda copy=snapshot: _write(copy, store, config, names))  # type: ignore[misc]
            seconds[BACKGROUND].append(_now(device) - start)
            writer.wait()
            if writer.error is not None:
                raise writer.error
            seconds[COMPLETE].append(time.perf_counter() - start)
        for name in ("at-once", "by-thread"):
            filesystem.delete_dir(join(folder, f"benchmark-{name}"))
    figures = {
        name: rounds[1:] for name, rounds in seconds.items()
    }  # without the first round, which allocates memory that the others reuse
    print(report(options, device, figures, sum(value.nbytes for value in state.model.state_dict().values())))
    if options.json is not None:
        write_json(options.json, options, {"device": device.type, "seconds": figures})


def _write(snapshot: Snapshot, store: Callable[..., None], config: TrainSettings, names: list[str]) -> bool:
    snapshot.to_cpu()
    store("by-thread", lambda part: snapshot.write(part, config, names))
    return True


def trained_state(options: CheckpointBenchmark, device: torch.device) -> TrainState:
    """A training's state after one step, so that it includes the momentum."""
    state = build_state(options.train_config().resolved(), options.num_classes, device)
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    return state


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def report(options: CheckpointBenchmark, device: torch.device, figures: dict[str, list[float]], weights: int) -> str:
    """The table of results, and the settings and machine."""
    ratio = paired_ratio(figures[BLOCKING], figures[BACKGROUND])
    rows = [[name, *(f"{value:.2f}" for value in (median(each), min(each), max(each)))] for name, each in figures.items()]
    return (
        f"{table(['', 'seconds', 'min', 'max'], rows)}\n"
        f"The first blocks training {ratio:.1f} times as long as the second.\n"
        f"Median of {options.rounds} alternating rounds; {options.arch}, {2 * weights / 1e9:.2f} GB of weights and "
        f"momentum, {device.type}.\n{machine_line(describe_machine())}"
    )
