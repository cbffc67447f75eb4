"""The names of a checkpoint's folder and files: all that is known of it without torch."""

from __future__ import annotations

import re

from pipelines.layouts.image_files import class_of
from vgg_dist.config import TrainSettings

MODEL, STATE, CONFIG, RECORDS = "model.safetensors", "state.pt", "config.json", "records.json"
PREFIX = "checkpoint-"


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint at a step; names sort by step."""
    return f"{PREFIX}{step:09d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether a folder of this name is a checkpoint's; see `run_folder.unused_name` for what may follow the step."""
    return re.fullmatch(rf"{PREFIX}\d+(-again)*", name) is not None


def step_of(name: str) -> int:
    """The inverse of `checkpoint_name`."""
    return int(name.removeprefix(PREFIX).partition("-")[0])


def refuse_classes(saved: list[str], config: TrainSettings, class_names: list[str]) -> None:
    """ValueError, one line, where the data's classes are not those that the run began with."""
    if list(map(class_of, saved)) != list(map(class_of, class_names)):  # earlier versions took macOS's decomposed names
        raise ValueError(
            f"--data {config.data}: its {len(class_names)} classes are not the {len(saved)}"
            f" that run {config.name} began with"
        )
