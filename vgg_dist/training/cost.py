"""What a training costs: its steps, and the hours that they take by training steps that are measured on this machine."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

from vgg_dist.config import TrainSettings
from vgg_dist.config.worker_range import most_workers
from vgg_dist.models.build import macs
from vgg_dist.models.precision import (
    apply_precision,
    autocast,
    autocast_dtype,
    choose_kernels,
    memory_format,
    resolve_precision,
)
from vgg_dist.models.specs import MODELS
from vgg_dist.training.layout import net_on_meta
from vgg_dist.training.memory import default_micro_batch
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import build_state


def describe_training(config: TrainSettings, images: tuple[int, int], num_classes: int) -> str:
    """What would be trained, in a few lines for people. `images`: how many there are for training and for validation."""
    num_train, num_val = images
    steps = math.ceil(num_train / config.global_batch)
    total = min(steps * config.epochs, config.max_steps or math.inf)
    workers = most_workers(config.num_workers or max(1, torch.cuda.device_count()))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    micro_batch = config.micro_batch or default_micro_batch(config, num_classes, Worker(0, workers, device))
    rate = measure_rate(config, num_classes) * workers
    hours = min(total * config.global_batch, config.epochs * num_train) / rate / 3600
    return "\n".join([
        f"run {config.name} in {config.folder}",
        f"net: {describe_net(config, num_classes)}",
        f"images: {num_train:,} for training, {num_val:,} for validation, in {num_classes:,} classes",
        f"steps: {steps:,} an epoch, of {config.global_batch:,} images each; {total:,} in at most {config.epochs} epochs",
        f"workers: {workers}, each with micro-batches of {micro_batch:,} images",
        f"time: {rate:.4g} images/s, from training steps measured now on {device_name()}"
        f"{f', times {workers}' if workers > 1 else ''}: {_duration(num_train / rate / 3600)} an epoch,"
        f" {_duration(hours)} in all",
        "Loading and validation are not in the time. Training ends earlier when the validation error stalls.",
    ])  # fmt: skip


def describe_net(config: TrainSettings, num_classes: int) -> str:
    """Such as `D with batch norm, 138,365,992 parameters, 15.47 GMACs an image of 224 pixels`."""
    parameters, image_macs = parameters_and_macs(config, num_classes)
    twin = " with batch norm" if config.batch_norm else ""
    head = "" if config.head == "fc" else f", head {config.head}"
    width = "" if config.width == 1 else f", width {config.width:g}"
    return (
        f"{config.arch}{twin}{head}{width}, {parameters:,} parameters, {image_macs / 1e9:.4g} GMACs (multiply-accumulates)"
        f" an image of {config.image_size} pixels"
    )


def parameters_and_macs(config: TrainSettings, num_classes: int) -> tuple[int, int]:
    """A net's parameters, and the multiply-accumulates of its forward pass of one image."""
    model = net_on_meta(config, num_classes)
    return sum(parameter.numel() for parameter in model.parameters()), macs(model, config.image_size)


def device_name() -> str:
    """What `measure_rate` measures on: a GPU's name, or the CPU's threads."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({torch.get_num_threads()} threads)"


def measure_rate(config: TrainSettings, num_classes: int, steps: int = 2) -> float:
    """Images/s of training steps of this net on this machine's GPU, or its CPU: forward, backward, optimizer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = min(config.micro_batch or default_micro_batch(config, num_classes, Worker(device=device)), config.global_batch)
    if device.type == "cpu":  # a few seconds: eight images of 224 pixels, or as many as have as many pixels
        batch = min(batch, max(8, 8 * 224**2 // config.image_size**2))
    state = build_state(replace(config, init_from=None), num_classes, device)
    precision = resolve_precision(config.precision, device)
    apply_precision(precision)
    choose_kernels(config.deterministic)
    dtype = autocast_dtype(precision, device)
    size = config.image_size
    images = torch.randn(batch, MODELS[config.arch].in_channels, size, size, device=device)
    images = images.contiguous(memory_format=memory_format(dtype, device))
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    start = 0.0
    for step in range(-1, steps):
        if step == 0:
            start = _now(device)
        with autocast(device, dtype):
            logits = state.model(images)
        cross_entropy(logits.float(), labels).backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
    return steps * batch / (_now(device) - start)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _duration(hours: float) -> str:
    """Such as 12 s, 3.5 min, 32.9 h or 1,234 h."""
    if hours < 1 / 60:
        return f"{hours * 3600:.3g} s"
    if hours < 1:
        return f"{hours * 60:.3g} min"
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"
