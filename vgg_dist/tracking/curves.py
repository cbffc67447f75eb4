"""The learning curves of a run as one picture: loss, error and learning rate over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

History = Sequence[tuple[int, float]]  # (step, value), in step order


class Panel(NamedTuple):
    """One plot: the unit on its axis, and the label of each metric drawn in it."""

    unit: str
    labels: dict[str, str]
    scale: str = "linear"


PANELS = (
    Panel("loss", {"train/loss": "train", "val/loss": "validation"}),
    Panel(
        "error (%)",
        {
            "train/top1_error": "train top-1",
            "val/top1_error": "validation top-1",
            "train/top5_error": "train top-5",
            "val/top5_error": "validation top-5",
        },
    ),
    Panel("learning rate", {"lr": "learning rate"}, scale="log"),
)
METRICS = [metric for panel in PANELS for metric in panel.labels]
MANY_POINTS = 100  # with so many, a training metric is drawn faintly, under its running mean


def draw_learning_curves(histories: Mapping[str, History], title: str) -> Figure:
    """The panels that have a metric in `histories` (by metric name), side by side. ValueError if no panel has one."""
    panels = [panel for panel in PANELS if any(histories.get(metric) for metric in panel.labels)]
    if not panels:
        raise ValueError(f"no learning curves: none of {', '.join(METRICS)} was logged")
    figure = Figure(figsize=(5.2 * len(panels), 4), layout="constrained")
    figure.suptitle(title)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for metric, label in panel.labels.items():
            if history := histories.get(metric):
                _draw(axes, metric, history, label)
        axes.set(xlabel="step", ylabel=panel.unit, yscale=panel.scale)
        axes.grid(alpha=0.3)
        if len(panel.labels) > 1:
            axes.legend()
    return figure


def _draw(axes: Axes, metric: str, history: History, label: str) -> None:
    steps, values = np.array(history, dtype=float).T
    look: dict[str, Any] = {
        "color": "tab:orange" if metric.startswith("val/") else "tab:blue",
        "linestyle": "--" if metric.endswith("top5_error") else "-",
        "drawstyle": "steps-post" if metric == "lr" else "default",
    }
    if metric.startswith("train/") and len(values) >= MANY_POINTS:
        axes.plot(steps, values, **look, alpha=0.25, linewidth=0.8)
        width = len(values) // (MANY_POINTS // 4)
        steps, values = (np.convolve(line, np.ones(width) / width, mode="valid") for line in (steps, values))
    axes.plot(steps, values, **look, label=label, marker="." if len(values) <= 30 else "")
