"""The names of a checkpoint's folder and files, and where a run's checkpoints lie: all that is known without torch."""

from __future__ import annotations

from vgg_dist.config import TrainConfig
from vgg_dist.storage import absolute, beside, list_folder

MODEL, STATE, CONFIG, RECORDS = "model.safetensors", "state.pt", "config.json", "records.json"
PREFIX = "checkpoint-"


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint at a step; names sort by step."""
    return f"{PREFIX}{step:09d}"


def find_checkpoints(location: str, flag: str) -> list[str]:
    """The checkpoints at `location`, a run's folder or a checkpoint's, path or URL: the last one first.

    ValueError, one line that begins with `flag`, if there is none.
    """
    location = absolute(location)
    try:
        names = list_folder(location)
        if CONFIG in names:
            return [location]
        found = [name for name in names if name.startswith(PREFIX) and CONFIG in list_folder(beside(location, name))]
    except FileNotFoundError:
        raise ValueError(f"{flag} {location}: does not exist; expected a run's folder or a checkpoint") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{flag} {location}: cannot be read: {error}") from error
    if not found:
        raise ValueError(f"{flag} {location}: no checkpoint; neither it nor a folder in it has a {CONFIG}")
    return [beside(location, name) for name in reversed(found)]


def refuse_classes(saved: list[str], config: TrainConfig, class_names: list[str]) -> None:
    """ValueError, one line, where the data's classes are not those that the run began with."""
    if saved != class_names:
        raise ValueError(
            f"--data {config.data}: its {len(class_names)} classes are not the {len(saved)}"
            f" that run {config.name} began with"
        )
