"""Pictures of many trainings: their validation errors over the epochs, and settings against error."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

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
    columns = [_axis([row.settings[column] for row in rows]) for column in range(len(names))]
    columns.append(_numbers(errors.tolist(), log=False))
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
    axes.set_xticks(range(len(columns)), [*names, "top-1 error (%)"])
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    figure.colorbar(ScalarMappable(colors, "viridis_r"), ax=axes, label="validation top-1 error (%)")
    return figure


def encode(figure: Figure, form: Literal["svg", "png"]) -> bytes:
    """The picture's file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=150)
    return buffer.getvalue()


Axis = tuple[np.ndarray, list[tuple[float, str]]]
"""Where each line crosses, from 0 to 1, and the ticks."""


def _axis(values: list[str]) -> Axis:
    """An axis of numbers where there are many different ones, of words otherwise."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    different = sorted(set(numbers))
    if len(different) > 4:
        return _numbers(numbers, log=different[0] > 0 and different[-1] / different[0] > 20)
    words = [f"{number:g}" for number in different] or sorted(set(values), key=lambda word: (len(word), word))
    texts = [f"{number:g}" for number in numbers] or values
    place = {word: (k + 0.5) / len(words) for k, word in enumerate(words)}
    return np.array([place[text] for text in texts]), [(place[word], word) for word in words]


def _numbers(numbers: list[float], log: bool) -> Axis:
    values = np.log10(numbers) if log else np.array(numbers)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    width = max(high - low, 1e-12)
    ticks = [low + width * k / 4 for k in range(5)]
    texts = [f"{10**tick if log else tick:.3g}" for tick in ticks]
    return (values - low) / width, [((tick - low) / width, text) for tick, text in zip(ticks, texts, strict=True)]
