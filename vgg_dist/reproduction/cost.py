"""What the paper's runs cost: images, epochs and hours, from training steps that are measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.progress import Progress
from vgg_dist import paper
from vgg_dist.config import ReproduceConfig
from vgg_dist.reporting.text import aligned
from vgg_dist.reproduction.run_graph import Run, image_macs, wants_crops
from vgg_dist.training.cost import device_name, measure_rate


def measured_plan(config: ReproduceConfig, runs: Sequence[Run], images: tuple[int, int], num_classes: int) -> str:
    """The runs as a table with their cost, and the command of each; steps are measured on a GPU here, or else the CPU.

    `images`: how many there are for training and for validation.
    """
    archs = {run.config.arch: run.config for run in runs}
    rates = {
        arch: measure_rate(of_arch, num_classes) for arch, of_arch in Progress(archs.items(), desc="measuring", leave=False)
    }
    device = device_name()
    commands = "\n".join(run.config.command_line() for run in runs)
    return f"{describe_plan(config, runs, images, rates, device)}\n\n{commands}"


def describe_plan(
    config: ReproduceConfig, runs: Sequence[Run], images: tuple[int, int], rates: dict[str, float], device: str
) -> str:
    """The runs as a table. `images`: as in `measured_plan`; `rates`: images/s of each arch on one `device`."""
    num_train, num_val = images
    rows, total = [], 0.0
    finish: dict[str | None, float] = {None: 0.0}
    forward: dict[str, float] = {}
    for run in runs:
        epochs = run.config.epochs
        hours = num_train * epochs / rates[run.config.arch] / 3600
        gmacs = image_macs(run.config) / 1e9
        forward[run.name] = 3 * rates[run.config.arch]  # of a step, a third is the forward pass
        finish[run.name] = finish[run.depends_on] + hours
        total += hours
        start = run.depends_on or run.config.init
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
        f"images/s: training steps measured now on one {device}, without loading and validation."
        " A training ends earlier where its error stalls."
    )


def _evaluation_passes(config: ReproduceConfig, run: Run) -> float:
    """The cost of all views of an image, in forward passes at the net's own size; for an image with sides 3 to 4."""
    size = run.config.image_size
    scale = run.config.train_scale.ends
    scales = {paper.single_scale(scale)}
    if config.through != "table3":
        scales |= set(paper.several_scales(scale, size))
    dense = sum(2 * (4 / 3) * Q**2 / size**2 for Q in scales)
    crops = 50 * len(scales) if wants_crops(config, run.config) else 0
    return dense + crops


def _hours(hours: float) -> str:
    """Such as 32.9, or 309,800 rather than 3.098e+05."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
