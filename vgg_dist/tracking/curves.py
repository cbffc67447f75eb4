"""Draws the learning curves of a run: loss, errors and learning rate over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vgg_dist.metric_names import (
    LR,
    TRAIN,
    TRAIN_LOSS,
    TRAIN_TOP1_ERROR,
    TRAIN_TOP5_ERROR,
    VAL,
    VAL_LOSS,
    VAL_TOP1_ERROR,
    VAL_TOP5_ERROR,
)

History = Sequence[tuple[int, float]]  # (step, value), in step order


class Panel(NamedTuple):
    """One plot: the label of its y axis, and metric -> label of its line."""

    unit: str
    labels: dict[str, str]
    scale: str = "linear"


PANELS = (
    Panel("loss", {TRAIN_LOSS: "train", VAL_LOSS: "validation"}),
    Panel(
        "error (%)",
        {
            TRAIN_TOP1_ERROR: "train top-1",
            VAL_TOP1_ERROR: "validation top-1",
            TRAIN_TOP5_ERROR: "train top-5",
            VAL_TOP5_ERROR: "validation top-5",
        },
    ),
    Panel("learning rate", {LR: "learning rate"}, scale="log"),
)
METRICS = [metric for panel in PANELS for metric in panel.labels]
MANY_POINTS = 100  # a training metric with more is drawn faintly, with its running mean on top


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
        "color": "tab:orange" if metric.startswith(VAL) else "tab:blue",
        "linestyle": "--" if metric.endswith("top5_error") else "-",
        "drawstyle": "steps-post" if metric == LR else "default",
    }
    if metric.startswith(TRAIN) and len(values) >= MANY_POINTS:
        axes.plot(steps, values, **look, alpha=0.25, linewidth=0.8)
        width = len(values) // (MANY_POINTS // 4)
        steps, values = (np.convolve(line, np.ones(width) / width, mode="valid") for line in (steps, values))
    axes.plot(steps, values, **look, label=label, marker="." if len(values) <= 30 else "")
