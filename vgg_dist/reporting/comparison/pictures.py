"""Matplotlib figures of many trainings, for MLflow: validation errors over the epochs, settings against the error."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vgg_dist.reporting.comparison.axes import number_axis, setting_axis
from vgg_dist.reporting.comparison.table import Comparison

NAMED = 10  # curves that are told apart by colour; the others are grey
ERROR = "val/top1_error"


def draw_curves(comparison: Comparison) -> Figure:
    """The validation top-1 error of every training; the best are coloured and named."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = [row.run for row in comparison.rows if row.run.validations.get(ERROR)]
    for number, run in reversed(list(enumerate(shown))):
        epochs, errors = np.array(run.validations[ERROR]).T
        named = number < NAMED
        axes.plot(
            epochs,
            errors,
            color=f"C{number}" if named else "0.75",
            label=run.name if named else None,
            linewidth=1.6 if named else 0.8,
            marker="." if len(epochs) <= 30 else "",
            zorder=3 if named else 1,
        )
    axes.set(xlabel="epoch", ylabel="validation top-1 error (%)")
    axes.grid(alpha=0.3)
    if shown:
        handles, labels = axes.get_legend_handles_labels()
        title = f"the best {NAMED} of {len(shown)}" if len(shown) > NAMED else None
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize="small", title=title)
    return figure


def draw_parallel(comparison: Comparison) -> Figure:
    """Parallel coordinates: a line for each training through its settings to its error, coloured by the error."""
    rows = [row for row in comparison.rows if row.best is not None][::-1]  # the best is drawn last, over the others
    names = comparison.settings
    errors = np.array([row.best.top1 for row in rows if row.best])
    columns = [setting_axis([row.settings[column] for row in rows]) for column in range(len(names))]
    columns.append(number_axis(errors.tolist()))
    figure = Figure(figsize=(2 + 1.7 * len(columns), 4.5), layout="constrained")
    axes = figure.subplots()
    colors = Normalize(errors.min(), np.quantile(errors, 0.9)) if len(errors) else Normalize()
    points = np.stack([positions for positions, _ in columns], axis=1) if rows else np.empty((0, len(columns)))
    lines = [np.column_stack([np.arange(len(columns)), line]) for line in points]
    axes.add_collection(LineCollection(lines, array=errors, cmap="viridis_r", norm=colors, alpha=0.8, linewidth=1.4))
    for place, (_, ticks) in enumerate(columns):
        axes.axvline(place, color="0.3", linewidth=1)
        for position, text in ticks:
            axes.annotate(
                text,
                (place, position),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
            )
    axes.set(xlim=(-0.1, len(columns) - 0.5), ylim=(-0.05, 1.05), yticks=[])
    axes.set_xticks(range(len(columns)), [*(name.replace("_", "\n") for name in names), "top-1\nerror (%)"])
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    figure.colorbar(ScalarMappable(colors, "viridis_r"), ax=axes, label="validation top-1 error (%)")
    return figure


def encode_png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
