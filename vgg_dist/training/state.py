"""TrainState: everything a run is at a step, saved to a checkpoint and restored from one.

Here is what only a training needs: the optimizer, the schedule, the counters (state.pt), snapshots, and restoring a run from
a checkpoint. What evaluation and export read as well (weights, settings, class names, records) is in `weights.checkpoint`.
The files' names are in `run_folder.names`.

Which state a training starts from: its own last checkpoint if there is one (`TrainState.restore`), else --init-from, else
random weights (`build_state`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vgg_dist.config import TrainSettings, refuse_changes
from vgg_dist.metric_names import Record
from vgg_dist.models.build import build_model, initialize
from vgg_dist.models.precision import autocast_dtype, memory_format
from vgg_dist.models.warm_start import init_from_shallower
from vgg_dist.run_folder.choice import local_checkpoint
from vgg_dist.run_folder.digests import check_files, damaged, write_digests
from vgg_dist.run_folder.names import CONFIG, MODEL, RECORDS, STATE, refuse_classes
from vgg_dist.training.network_wait import NetworkWait
from vgg_dist.training.objective import CrossEntropy
from vgg_dist.training.optim import PlateauSchedule, build_optimizer, restore_optimizer
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.split_fc import SplitFc
from vgg_dist.weights.checkpoint import load_tensors, read_description, read_weights


@dataclass
class TrainState:
    """A run at a step: net, optimizer, schedule and counters.

    `samples` counts the images of the current epoch that all workers have used; with the seed and the epoch it is the whole
    state of the data. `epoch_sums`: the metric sums of the epoch so far, over all workers (see objective.Objective).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: PlateauSchedule
    step: int = 0
    epoch: int = 0
    samples: int = 0
    bad_images: int = 0
    epoch_sums: list[float] = field(default_factory=lambda: [0.0] * len(CrossEntropy.fields))
    origin: str = ""
    """For people: the checkpoint of --init-from that the run started from; not saved."""
    split: SplitFc | None = None
    """How the FC layers are split over workers, once `split_fc` was called. Checkpoints have them whole."""

    COUNTERS = ("step", "epoch", "samples", "bad_images", "epoch_sums")

    @property
    def place(self) -> tuple[int, int, int]:
        """(step, epoch, samples). It differs before and after the validation at the end of an epoch."""
        return self.step, self.epoch, self.samples

    def split_fc(self, worker: Worker, network_wait: NetworkWait) -> None:
        """Keeps only this worker's part of the FC layers, if `worker` says that several share them. A collective call."""
        if worker.fc_workers > 1:
            self.split = SplitFc(self.model, self.optimizer, worker, network_wait)

    def save(self, folder: Path, config: TrainSettings, class_names: list[str]) -> None:
        """Writes a checkpoint's files into an existing folder. The FC layers must be whole."""
        Snapshot(dict(self.model.state_dict()), self._rest()).write(folder, config, class_names)

    def snapshot(self, spare: Snapshot | None = None) -> Snapshot | None:
        """A copy of the state, on its device, to be written while training continues.

        If the FC layers are split, it is a collective call, and returns None on all workers but rank 0.

        A GPU copies between two steps, without the CPU waiting. The copy takes as much memory as weights and momentum; if
        that is not free, it is made in the CPU's memory at once. On a CPU the memory of `spare`, a snapshot that is already
        written, is reused, because filling fresh memory takes several times as long.
        """
        tensors = dict(self.model.state_dict()), self._rest()
        if self.split is not None and not self.split.join(tensors[0], tensors[1]["optimizer"]):
            return None
        if not any(tensor.is_cuda for tensor in tensors[0].values()):
            weights, rest = _copied(tensors, [] if spare is None else _tensors_in([spare.weights, spare.rest]))
            return Snapshot(weights, rest)
        try:
            weights, rest = _mapped(tensors, torch.clone)
        except torch.OutOfMemoryError:
            weights, rest = _mapped(tensors, Tensor.cpu)
        made = torch.cuda.Event()
        made.record()
        return Snapshot(weights, rest, made)

    def _rest(self) -> dict[str, Any]:
        counters = {name: getattr(self, name) for name in self.COUNTERS}
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(), "counters": counters}

    def restore(self, folder: Path, config: TrainSettings, class_names: list[str]) -> None:
        """Loads a checkpoint of the same run, except the settings that `config` may change (see config.resume).

        ValueError, one line, for a changed setting that must stay or for other classes; DamagedCheckpoint if a file is
        damaged.
        """
        check_files(folder)  # before anything is loaded
        saved, saved_classes = read_description(folder)
        refuse_changes(saved.to_dict(), config)
        refuse_classes(saved_classes, config, class_names)
        self.model.load_state_dict(load_tensors(folder))
        try:
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise damaged(folder / STATE, error) from error
        restore_optimizer(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"], saved.patience)
        for name, value in state["counters"].items():
            setattr(self, name, value)


@dataclass
class Snapshot:
    """A copy of a TrainState at one step.

    `weights`: the net's state dict; `rest`: optimizer, schedule and counters; `made`: recorded when a GPU has finished the
    copy.
    """

    weights: dict[str, Tensor]
    rest: dict[str, Any]
    made: torch.cuda.Event | None = None

    def to_cpu(self) -> None:
        """Moves the tensors to the CPU on a CUDA stream of its own and waits for it. To be called in a background thread."""
        device = next(iter(self.weights.values())).device
        if self.made is None or device.type != "cuda":
            return
        torch.cuda.set_device(device)
        with torch.cuda.stream(torch.cuda.Stream(device)):
            self.made.wait()
            self.weights, self.rest = _mapped((self.weights, self.rest), Tensor.cpu)

    def write(
        self, folder: Path, config: TrainSettings, class_names: list[str], records: Sequence[Record] | None = None
    ) -> None:
        """Writes a checkpoint's files into an existing folder. `records`: those since the checkpoint before."""
        safetensors.torch.save_file({key: value.contiguous() for key, value in self.weights.items()}, folder / MODEL)
        with open(folder / STATE, "wb") as file:  # given a file name, torch.save would hold the GIL while it writes
            torch.save(self.rest, file)
        description = {"config": config.to_dict(), "class_names": class_names}
        (folder / CONFIG).write_text(json.dumps(description, indent=1))
        if records is not None:
            (folder / RECORDS).write_text(json.dumps(records))
        write_digests(folder)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of nested dicts, lists and tuples, with `function` applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, function) for item in value)
    return value


def _tensors_in(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _mapped(value, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def _copied(value: Any, spare: list[Tensor]) -> Any:
    """A copy, tensors included, in the memory of `spare` if the shapes agree."""
    if [tensor.shape for tensor in spare] != [tensor.shape for tensor in _tensors_in(value)]:
        return _mapped(value, torch.clone)
    into = iter(spare)
    return _mapped(value, lambda tensor: next(into).copy_(tensor))


def build_state(config: TrainSettings, num_classes: int, device: torch.device) -> TrainState:
    """A run at step 0, initialised as `config` says: from --init-from, or at random.

    ValueError, one line, for a --init-from that cannot be used.
    """
    model = build_model(
        config.arch,
        num_classes=num_classes,
        batch_norm=config.batch_norm,
        head=config.head,
        width=config.width,
        image_size=config.image_size,
        dropout=config.dropout,
    )
    initialize(model, config.init, std=config.init_std, generator=torch.Generator().manual_seed(config.seed))
    origin = ""
    if config.init_from is not None:
        with local_checkpoint(config.init_from, "--init-from") as chosen:
            init_from_shallower(model, read_weights(chosen.folder))
            origin = str(chosen)
    model = model.to(device).to(memory_format=memory_format(autocast_dtype(config.precision, device), device))
    schedule = PlateauSchedule(config.lr, config.patience, config.lr_drops, config.warmup_epochs)
    return TrainState(model, build_optimizer(model, config), schedule, origin=origin)
