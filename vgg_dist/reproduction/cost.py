"""What the runs of a study cost: images, epochs and hours, from training steps that are measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.progress import Progress
from vgg_dist import paper
from vgg_dist.config import ReproduceConfig, TrainSettings
from vgg_dist.reporting.text import aligned
from vgg_dist.reproduction.run_graph import Run, image_macs, wants_crops
from vgg_dist.reproduction.study_runs import study_view
from vgg_dist.training.cost import device_name, measure_rate


def measured_plan(config: ReproduceConfig, runs: Sequence[Run], images: tuple[int, int], num_classes: int) -> str:
    """The runs as a table with their cost, and the command of each; steps are measured on a GPU here, or else the CPU.

    `images`: how many there are for training and for validation.
    """
    nets = {_net(run.config): run.config for run in runs}
    rates = {net: measure_rate(of_net, num_classes) for net, of_net in Progress(nets.items(), desc="measuring", leave=False)}
    device = device_name()
    commands = "\n".join(run.config.command_line() for run in runs)
    return f"{describe_plan(config, runs, images, rates, device)}\n\n{commands}"


def describe_plan(
    config: ReproduceConfig, runs: Sequence[Run], images: tuple[int, int], rates: dict[str, float], device: str
) -> str:
    """The runs as a table. `images`: as in `measured_plan`; `rates`: images/s on one `device` by net, such as A or A-bn."""
    num_train, num_val = images
    rows, total = [], 0.0
    finish: dict[str | None, float] = {None: 0.0}
    forward: dict[str, float] = {}
    for run in runs:
        epochs = run.config.epochs
        rate = rates[_net(run.config)]
        hours = num_train * epochs / rate / 3600
        forward[run.name] = 3 * rate  # of a step, a third is the forward pass
        finish[run.name] = finish[run.depends_on] + hours
        total += hours
        start = run.depends_on or run.config.init
        rows.append((
            run.name, start, f"{run.config.lr:g}", str(epochs), f"{num_train * epochs:,}", _gmacs(run.config),
            f"{rate:.4g}", _hours(hours),
        ))  # fmt: skip
    evaluation = sum(_evaluation_passes(config, run) / forward[run.name] for run in runs) * num_val / 3600
    what = f"evaluation up to {config.through}" if config.study == "paper" else "evaluation at one scale"
    headings = ["run", "starts\nfrom", "lr", "epochs\nat most", "\nimages", "GMACs\nan image", "\nimages/s", "\nhours"]
    return (
        f"{aligned(headings, rows, {0, 1})}\n"
        f"Training: {_hours(total)} hours of one {device}, {_hours(max(finish.values()))} along the longest chain;"
        f" {what}, by arithmetic from the same steps: {_hours(evaluation)} hours.\n"
        f"images/s: training steps measured now on one {device}, without loading and validation."
        " A training ends earlier where its error stalls."
    )


def _net(config: TrainSettings) -> str:
    """What the rate of a run is measured of; all runs of a net have the same image size."""
    return f"{config.arch}{'-bn' * config.batch_norm}"


def _evaluation_passes(config: ReproduceConfig, run: Run) -> float:
    """The cost of all views of an image, in forward passes at the net's own size; for an image with sides 3 to 4."""
    if config.study != "paper" and study_view(config) == "center":
        return 1
    size = run.config.image_size
    scale = run.config.train_scale.ends
    scales = {paper.single_scale(scale)}
    if config.study == "paper" and config.through != "table3":
        scales |= set(paper.several_scales(scale, size))
    dense = sum(2 * (4 / 3) * Q**2 / size**2 for Q in scales)
    crops = 50 * len(scales) if wants_crops(config, run.config) else 0
    return dense + crops


def _gmacs(config: TrainSettings) -> str:
    """Billions of multiply-accumulates, with two digits: 15.47, 0.00042."""
    gmacs = image_macs(config) / 1e9
    return f"{gmacs:.2f}" if gmacs >= 0.1 else f"{gmacs:.2g}"


def _hours(hours: float) -> str:
    """Such as 32.9, or 309,800 rather than 3.098e+05."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
