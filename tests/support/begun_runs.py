"""Runs that were begun, to be resumed with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipelines.stores.open import open_splits
from vgg_dist.config import ScaleRange, TrainConfig
from vgg_dist.run_folder.names import checkpoint_name
from vgg_dist.run_folder.outcome import write_outcome
from vgg_dist.training.state import TrainState, build_state

CLASSES = open_splits("synthetic")[0].class_names


METRICS = {"val/loss": 1.5, "val/top1_error": 40.0, "val/top5_error": 10.0, "epoch": 2.0}


OTHER: dict[str, Any] = {
    "arch": "A", "batch_norm": True, "head": "linear", "width": 0.5, "dropout": 0.1, "data": "synthetic:seed=3",
    "image_size": 48, "train_scale": ScaleRange(50, 60), "val_scale": 60, "pad": 4, "flip": False, "color_shift": 0.0,
    "max_bad_images": 3, "max_pixels": 5_000_000, "quarantine": "/other.txt",
    "loader_threads": 3, "epochs": 5, "max_steps": 70, "global_batch": 8, "micro_batch": 2, "lr": 0.5, "warmup_epochs": 4.0,
    "patience": 9, "lr_drops": 1, "momentum": 0.5, "weight_decay": 0.25, "init": "he", "init_std": 0.5,
    "init_from": "/other", "precision": "bf16", "compile": True, "deterministic": True, "bf16_gradients": True,
    "powersgd_rank": 2, "fc_parallel": "1",
    "num_workers": 7, "max_failures": 9, "checkpoint_every": "3s", "log_every": "4s", "experiment": "other",
    "tracking_uri": "sqlite:///x", "seed": 4, "shuffle": "blocks",
}  # fmt: skip
"""Another value than BEGUN's for every setting that is looked at."""


def begun(storage: Path) -> TrainConfig:
    return TrainConfig(
        arch="lenet5", epochs=2, lr=0.01, name="first", storage_path=str(storage), num_workers=1, micro_batch=4,
        loader_threads=1, init_from=None, tracking_uri="sqlite:///y", precision="fp32",
    ).resolved()  # fmt: skip


def trained(config: TrainConfig) -> TrainState:
    """A net after two steps on made-up gradients."""
    state = build_state(config, len(CLASSES), torch.device("cpu"))
    for _ in range(2):
        step(state)
    state.step, state.epoch, state.schedule.drops = 2, 2, 1
    return state


def step(state: TrainState) -> None:
    generator = torch.Generator().manual_seed(5)
    for group in state.optimizer.param_groups:
        group["lr"] = state.schedule.rate(9.0)
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    state.optimizer.step()


def finish(config: TrainConfig) -> None:
    folder = Path(config.storage_path, "first", checkpoint_name(2))
    write_outcome(config, {"metrics": METRICS, "step": 2, "checkpoint": str(folder)})
