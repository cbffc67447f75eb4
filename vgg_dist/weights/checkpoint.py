"""TrainState: what a run is, saved to a folder and restored from one.

A checkpoint is a folder of files: `model.safetensors` (the net's whole tensors, keys as torchvision's), `state.pt`
(optimizer, schedule, counters; read with `weights_only=True`), `config.json` (the run's settings and class names),
`records.json` (what was measured since the checkpoint before) and `digests.json`, by which a damaged file is found when it
is read. None of them can run code when read. How many workers wrote it is not part of it.
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
    """A checkpoint's model state dict, on the CPU. DamagedCheckpoint if it cannot be read."""
    check_files(folder, [MODEL])
    return load_tensors(folder)


def read_records(folder: Path) -> list[Record]:
    """A checkpoint's records; none where it has no such file. DamagedCheckpoint if they cannot be read."""
    try:
        return json.loads((folder / RECORDS).read_text())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise damaged(folder / RECORDS, error) from error


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """As `read_weights`, of files that were checked before."""
    try:
        return safetensors.torch.load_file(folder / MODEL)
    except (OSError, safetensors.SafetensorError) as error:
        raise damaged(folder / MODEL, error) from error
