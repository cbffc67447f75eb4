"""The paper's programme as a graph of runs (sections 3.1 and 4): which nets, at which S, each started from which.

A and A-LRN at the first scale from nothing; B to E from A's layers; C, D and E at the second scale from their nets at the
first, and at the jittered one from those at the second, at a tenth of the learning rate ([?] the paper does not give the
rate for the jittered ones).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cross_entropy

from vgg_dist import paper
from vgg_dist.config import PaperArch, ReproduceConfig, TrainSettings
from vgg_dist.models.build import build_model, macs
from vgg_dist.models.precision import (
    apply_precision,
    autocast,
    autocast_dtype,
    choose_kernels,
    memory_format,
    resolve_precision,
)
from vgg_dist.models.specs import MODELS
from vgg_dist.reporting.text import aligned
from vgg_dist.training.memory import default_micro_batch
from vgg_dist.training.state import build_state

DEEP: tuple[PaperArch, ...] = "C", "D", "E"  # the nets that are trained at all scales


@dataclass(frozen=True)
class Run:
    """A training of the programme, and the name of the run it starts from."""

    config: TrainSettings
    after: str | None

    @property
    def name(self) -> str:
        """The run's, and its folder's in the programme's."""
        return self.config.name


def programme(config: ReproduceConfig) -> list[Run]:
    """The runs that are wanted, `config` being resolved, each behind the one it starts from. ValueError, one line."""
    first, second, jittered = config.three_scales()
    runs: dict[str, Run] = {}

    def add(arch: PaperArch, scale: str, after: str | None, lr: float) -> str:
        run = Run(config.run(arch, scale, after, lr), after)
        runs[run.name] = run
        return run.name

    shallow = add("A", first, None, config.lr)
    add("A-LRN", first, None, config.lr)
    add("B", first, shallow if config.from_shallow else None, config.lr)
    for arch in DEEP:
        name = add(arch, first, shallow if config.from_shallow else None, config.lr)
        name = add(arch, second, name, config.lr / 10)
        add(arch, jittered, name, config.lr / 10)
    return [run for run in runs.values() if run.name in _wanted(runs, config.only)]


def _wanted(runs: dict[str, Run], only: Sequence[str]) -> set[str]:
    """Names of the runs of these configurations, and of all that they start from."""
    wanted = {name for name, run in runs.items() if not only or run.config.arch in only}
    for name in list(wanted):
        after = runs[name].after
        while after is not None:
            wanted.add(after)
            after = runs[after].after
    return wanted


def is_jittered(config: TrainSettings) -> bool:
    """Whether S is drawn from a range."""
    return not config.train_scale.is_fixed


def longest_first(runs: Sequence[Run]) -> list[Run]:
    """In the order to begin them in where several go at once: by the computing that is to be done one after the other,
    from a run to the end of the longest chain behind it (critical-path list scheduling)."""
    ahead: dict[str, int] = {}
    for run in reversed(runs):
        behind = [ahead[other.name] for other in runs if other.after == run.name]
        ahead[run.name] = run.config.epochs * _image_macs(run.config) + max(behind, default=0)
    return sorted(runs, key=lambda run: -ahead[run.name])


def _image_macs(config: TrainSettings) -> int:
    size = config.image_size
    with torch.device("meta"):
        return macs(build_model(config.arch, head=config.head, image_size=size), size)


def measure_rate(config: TrainSettings, num_classes: int, steps: int = 2) -> float:
    """Images/s of training steps of this net on this machine's GPU, or its CPU: forward, backward, optimizer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = min(config.micro_batch or default_micro_batch(config, num_classes, device, 1), config.global_batch)
    batch = batch if device.type == "cuda" else min(8, batch)
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


def describe_plan(
    config: ReproduceConfig, runs: Sequence[Run], images: tuple[int, int], rates: dict[str, float], device: str
) -> str:
    """The graph as a table. `images`: of training and validation; `rates`: images/s of each arch on one `device`."""
    num_train, num_val = images
    rows, total = [], 0.0
    finish: dict[str | None, float] = {None: 0.0}
    forward: dict[str, float] = {}
    for run in runs:
        epochs = run.config.epochs
        hours = num_train * epochs / rates[run.config.arch] / 3600
        gmacs = _image_macs(run.config) / 1e9
        forward[run.name] = 3 * rates[run.config.arch]  # a step is a forward pass, and twice that backward
        finish[run.name] = finish[run.after] + hours
        total += hours
        start = run.after or run.config.init
        rows.append((
            run.name, start, f"{run.config.lr:g}", str(epochs), f"{num_train * epochs:,}", f"{gmacs:.2f}",
            f"{rates[run.config.arch]:.4g}", _hours(hours),
        ))  # fmt: skip
    evaluation = sum(_evaluation_passes(config, run) / forward[run.name] for run in runs) * num_val / 3600
    headings = ["run", "starts\nfrom", "lr", "epochs\nat most", "\nimages", "GMACs\nan image", "\nimages/s", "\nhours"]
    return (
        f"{aligned(headings, rows, {0, 1})}\n"
        f"Training: {_hours(total)} hours of one {device}, {_hours(max(finish.values()))} along the longest chain;"
        f" evaluation up to {config.through}, by arithmetic from the same steps: {_hours(evaluation)} hours.\n"
        f"images/s: training steps measured now on one {device}; loading and validation are not in them."
        " A training ends earlier where its error stalls."
    )


def _evaluation_passes(config: ReproduceConfig, run: Run) -> float:
    """Forward passes at the net's own size that all views of an image cost, its sides being as 3 to 4."""
    size = run.config.image_size
    scale = run.config.train_scale.ends
    scales = {paper.single_scale(scale)}
    if config.through != "table3":
        scales |= set(paper.several_scales(scale, size))
    dense = sum(2 * (4 / 3) * Q**2 / size**2 for Q in scales)
    crops = 50 * len(scales) if wants_crops(config, run.config) else 0
    return dense + crops


def wants_crops(config: ReproduceConfig, run: TrainSettings) -> bool:
    """Whether the wanted tables have a row with crops for this net: D and E with jittered scale, in Tables 5 and 6."""
    return config.through in ("table5", "table6") and run.arch in ("D", "E") and is_jittered(run)


def _hours(hours: float) -> str:
    """32.9, or 309,800: nobody reads 3.098e+05."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
