"""Reads what everyone needs of a checkpoint: settings and class names, weights, records. Every file is checked for damage.

The optimizer, the schedule and the counters, which only a training needs, and writing are in `training.state`. A
checkpoint's files are listed in `run_folder.names`.
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from vgg_dist.config import TrainConfig
from vgg_dist.metric_names import Record
from vgg_dist.run_folder.digests import check_files, damaged
from vgg_dist.run_folder.names import CONFIG, MODEL, RECORDS


def read_description(folder: Path) -> tuple[TrainConfig, list[str]]:
    """A checkpoint's settings and class names. ValueError, one line, if the folder is not a checkpoint."""
    if (folder / CONFIG).exists():
        check_files(folder, [CONFIG])
    try:
        description = json.loads((folder / CONFIG).read_text())
        return TrainConfig.from_dict(description["config"]), description["class_names"]
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a checkpoint: it has no {CONFIG}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder / CONFIG, error) from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The net's state dict, on the CPU. DamagedCheckpoint if it cannot be read."""
    check_files(folder, [MODEL])
    return load_tensors(folder)


def read_records(folder: Path) -> list[Record]:
    """The records since the checkpoint before; empty if there is no such file. DamagedCheckpoint if it cannot be read."""
    try:
        return json.loads((folder / RECORDS).read_text())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise damaged(folder / RECORDS, error) from error


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """As `read_weights`, for a checkpoint whose files are checked already."""
    try:
        return safetensors.torch.load_file(folder / MODEL)
    except (OSError, safetensors.SafetensorError) as error:
        raise damaged(folder / MODEL, error) from error
