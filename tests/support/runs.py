"""Runs' folders with a checkpoint, made without training."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.stores.open import open_store
from support.networks import build_drawn
from vgg_dist.config import Arch, TrainConfig
from vgg_dist.training.state import build_state

DATA = "synthetic:train=100,val=300,size=48"


CLASSES = open_store(DATA, "val").class_names


def make_run(storage: Path, name: str, seed: int, class_names: list[str] = CLASSES) -> Path:
    """A run with a checkpoint, as training leaves it: LeNet-5, for speed, with weights that tell images apart."""
    config = TrainConfig(arch="lenet5", data=DATA, name=name, storage_path=str(storage), seed=seed).resolved()
    state = build_state(config, len(class_names), torch.device("cpu"))
    state.model.load_state_dict(build_drawn("lenet5", seed=seed, num_classes=len(class_names)).state_dict())
    for layer in [layer for layer in state.model.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]:
        # Sigmoids give 0.5 on average: without their mean, what is left differs from image to image.
        weight = 3 * layer.weight.detach()
        first = isinstance(layer, torch.nn.Conv2d) and layer.in_channels == 1
        layer.load_state_dict({"weight": weight, "bias": -weight.flatten(1).sum(1) / 2 * (not first)})
    folder = storage / name / "checkpoint-000000001"
    folder.mkdir(parents=True)
    state.save(folder, config, class_names)
    return storage / name


def make_vgg_run(storage: Path, name: str, data: str = DATA, arch: Arch = "A") -> Path:
    """A run of a VGG for 32 pixels with a gap head, with drawn weights."""
    classes = open_store(data, "val").class_names
    shape = {"head": "gap", "image_size": 32}
    config = TrainConfig(arch=arch, data=data, name=name, storage_path=str(storage), **shape).resolved()  # type: ignore[arg-type]
    state = build_state(config, len(classes), torch.device("cpu"))
    state.model.load_state_dict(build_drawn(arch, num_classes=len(classes), **shape).state_dict())
    folder = storage / name / "checkpoint-000000001"
    folder.mkdir(parents=True)
    state.save(folder, config, classes)
    return storage / name
