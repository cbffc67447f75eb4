"""The plot of `benchmark scaling`: predicted efficiency over GPUs by layout, and measured beside modelled steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vgg_dist.benchmark.scaling.clusters import PUBLISHED, STRONG_BATCH, predict
from vgg_dist.benchmark.scaling.layouts import TITLES
from vgg_dist.benchmark.scaling.options import ScalingBenchmark
from vgg_dist.benchmark.scaling.settings import Setting

WORKERS = [2**power for power in range(3, 10)]
GBITS = 25
BLUE, GREEN, ORANGE = "#3465a4", "#4e9a06", "#ce5c00"
LOOKS = {
    "ddp": (BLUE, "-", "o"),
    "ddp-bf16": (BLUE, "--", "o"),
    "powersgd": (BLUE, ":", "o"),
    "fc": (ORANGE, "-", "s"),
    "fc-bf16": (ORANGE, "--", "s"),
    "fc-powersgd": (ORANGE, ":", "s"),
}
STYLE = {"svg.fonttype": "path", "svg.hashsalt": "scaling", "axes.spines.top": False, "axes.spines.right": False}


def draw(options: ScalingBenchmark, settings: Sequence[Setting], file: Path) -> None:
    """Writes the plot. The panel of measured steps is left out if nothing was measured."""
    with matplotlib.rc_context(STYLE):
        panels = 3 if settings else 2
        figure = Figure(figsize=(4.3 * panels, 4.2), layout="constrained")
        weak, strong, *measured = figure.subplots(1, panels)
        _efficiency(weak, options, strong=False)
        _efficiency(strong, options, strong=True)
        weak.legend(fontsize=8, loc="lower left")
        if measured:
            _steps(measured[0], settings)
        figure.savefig(file, dpi=120, facecolor="white", metadata={"Date": None} if file.suffix == ".svg" else None)


def _efficiency(axes: Axes, options: ScalingBenchmark, strong: bool) -> None:
    found = [p for p in predict(options, WORKERS, [GBITS]) if p.strong is strong]
    for layout, title in TITLES.items():
        points = [(p.workers, 100 * p.efficiency) for p in found if p.layout == layout]
        color, line, marker = LOOKS[layout]
        axes.plot(*zip(*points, strict=True), color=color, linestyle=line, marker=marker, markersize=4, label=title)
    figures = [figure for figure in PUBLISHED if figure.gbits == GBITS and figure.gpu_rate == options.gpu_rate]
    if figures and not strong and options.gpus_per_node == figures[0].gpus_per_node:
        points = [(figure.gpus, 100 * figure.measured) for figure in figures]
        axes.plot(*zip(*points, strict=True), "x", color="black", markersize=7, label=f"{figures[0].who}, published (fp32)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(WORKERS, [str(workers) for workers in WORKERS])
    axes.set_ylim(0, 105)
    axes.set_xlabel(f"GPUs, {options.gpus_per_node} a node, {GBITS} Gbit/s a node")
    axes.set_ylabel("predicted efficiency, %")
    said = f"strong scaling: {STRONG_BATCH} images a step" if strong else f"weak scaling: {options.gpu_batch} images a GPU"
    axes.set_title(f"D (VGG-16), {said}", fontsize=10)
    axes.grid(alpha=0.3)


def _steps(axes: Axes, settings: Sequence[Setting]) -> None:
    """Modelled over measured seconds. Filled marks: settings that the model was fitted to."""
    shown = [setting for setting in settings if setting.predicted_s]
    for setting in shown:
        color, _, marker = LOOKS[setting.layout]
        face = color if setting.fitted else "white"
        axes.plot(median(setting.step_s), setting.predicted_s, marker, markersize=6, color=color, markerfacecolor=face)
    ends = [f(value for s in shown for value in (median(s.step_s), s.predicted_s)) for f in (min, max)]
    line = [0.8 * ends[0], 1.25 * ends[1]]
    axes.plot(line, line, color="#888888", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured step, s")
    axes.set_ylabel("modelled step, s")
    axes.set_title("steps on the hosts (filled: fitted; open: held out)", fontsize=10)
    axes.grid(alpha=0.3)
