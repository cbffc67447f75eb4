"""The names of a checkpoint's folder and files.

| file | what it is |
|---|---|
| model.safetensors | weights and buffers of the whole net, keys as torchvision's |
| state.pt | optimizer, schedule and counters, to resume from; read with `weights_only=True` |
| config.json | the run's settings and class names; written last: a checkpoint without it is not whole |
| records.json | the metric records since the checkpoint before |
| digests.json | the SHA-256 of each of the other files |

The number of workers is in none of them. No file can run code when it is read.
"""

from __future__ import annotations

import re

from pipelines.layouts.image_files import class_of
from vgg_dist.config import TrainSettings

MODEL, STATE, CONFIG = "model.safetensors", "state.pt", "config.json"
RECORDS, DIGESTS = "records.json", "digests.json"
PREFIX = "checkpoint-"


def checkpoint_name(step: int) -> str:
    """The name of the checkpoint at a step; names sort by step."""
    return f"{PREFIX}{step:09d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether a folder of this name is a checkpoint; for "-again" see `checkpoints.unused_name`."""
    return re.fullmatch(rf"{PREFIX}\d+(-again)*", name) is not None


def step_of(name: str) -> int:
    """The step in a checkpoint's name."""
    return int(name.removeprefix(PREFIX).partition("-")[0])


def refuse_classes(saved: list[str], config: TrainSettings, class_names: list[str]) -> None:
    """ValueError, one line, if the data's classes are not those that the run began with."""
    if list(map(class_of, saved)) != list(map(class_of, class_names)):  # older versions kept the decomposed names of macOS
        raise ValueError(
            f"--data {config.data}: its {len(class_names)} classes are not the {len(saved)}"
            f" that run {config.name} began with"
        )
