"""The tables of `benchmark scaling`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import median

from vgg_dist.benchmark.report import describe_machine, machine_line, table
from vgg_dist.benchmark.scaling.clusters import (
    GBITS,
    GPU_CONSTANTS,
    STRONG_BATCH,
    WORKERS,
    Prediction,
    Published,
    published,
)
from vgg_dist.benchmark.scaling.layouts import TITLES, title
from vgg_dist.benchmark.scaling.model import Constants
from vgg_dist.benchmark.scaling.options import ScalingBenchmark
from vgg_dist.benchmark.scaling.settings import Setting

HEADINGS = (
    "arch", "Mbit/s", "layout", "step, s", "min", "max", "model, s", "error", "MB sent", "counted", "state, MB", "counted",
)  # fmt: skip


def measurements(options: ScalingBenchmark, settings: Sequence[Setting], constants: Constants) -> str:
    """What was measured beside what was counted and modelled."""
    modelled = [setting for setting in settings if setting.predicted_s]
    errors = {fitted: [abs(each.model_error) for each in modelled if each.fitted is fitted] for fitted in (True, False)}
    said = [f"{_spread(errors[True])} of the {len(errors[True])} settings that it was fitted to (*)"]
    if errors[False]:
        said.append(f"{_spread(errors[False])} of the {len(errors[False])} others")
    return (
        f"{table(HEADINGS, [_row(setting) for setting in settings])}\n"
        f"Steps of {options.global_batch} images of {options.image_size} px on {options.hosts} hosts with {options.threads} "
        f"thread(s) each: median, minimum and maximum of {options.rounds} rounds in turn of {options.steps} steps. MB sent: "
        "by each host in a step, read from its interface. State: parameters, gradients, momentum, other lasting tensors.\n"
        f"The model's error, median and worst: {'; '.join(said)}.\n"
        f"Fitted: {_constants(constants)}.\n{machine_line(describe_machine())}"
    )


def _row(setting: Setting) -> list[str]:
    seconds = setting.step_s
    model = ["", ""]
    if setting.predicted_s:
        model = [f"{setting.predicted_s:.2f}", f"{100 * setting.model_error:+.0f} %{' *' if setting.fitted else ''}"]
    return [
        setting.arch,
        f"{setting.mbits:g}",
        title(setting.layout, setting.bucket_mb),
        *(f"{value:.2f}" for value in (median(seconds), min(seconds), max(seconds))),
        *model,
        *(f"{value / 1e6:.1f}" for value in (setting.sent, setting.counted_bytes, setting.state, setting.counted_state)),
    ]


def _spread(errors: Sequence[float]) -> str:
    return f"{100 * median(errors):.0f} % and {100 * max(errors):.0f} %"


def _constants(constants: Constants) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in asdict(constants).items())


def predictions(options: ScalingBenchmark, found: Sequence[Prediction]) -> str:
    """Efficiencies by layout and cluster, and beside published ones."""
    weak = [prediction for prediction in found if not prediction.strong]
    strong = [prediction for prediction in found if prediction.strong]
    return "\n".join([
        f"Predicted efficiency of D at 224 px, weak scaling: {options.gpu_batch} images a GPU and step; one GPU "
        f"{options.gpu_rate:g} images/s in {options.gpu_precision}; {options.gpus_per_node} GPU(s) a node. In brackets: "
        "GPUs of an FC group.",
        _efficiencies(weak),
        f"The same, strong scaling: {STRONG_BATCH} images a step over all GPUs.",
        _efficiencies(strong),
        f"Assumed: {_constants(GPU_CONSTANTS)}.",
        "The model beside published efficiencies of VGG-16:",
        table(["", "GPUs", "a node", "Gbit/s", "published", "model"], [_published_row(figure) for figure in published()]),
    ])  # fmt: skip


def _published_row(figure: Published) -> list[str]:
    setting = [str(figure.gpus), str(figure.gpus_per_node), f"{figure.gbits:g}"]
    return [figure.who, *setting, _percent(figure.measured), _percent(figure.modelled)]


def _efficiencies(found: Iterable[Prediction]) -> str:
    cells = {(prediction.layout, prediction.gbits, prediction.workers): prediction for prediction in found}
    columns = [(gbits, workers) for gbits in GBITS for workers in WORKERS if ("ddp", gbits, workers) in cells]
    headings = ["layout", *(f"{workers} GPUs, {gbits} Gb/s" for gbits, workers in columns)]
    rows = [[TITLES[layout], *(_cell(cells[layout, *column]) for column in columns)] for layout in TITLES]
    return table(headings, rows)


def _cell(prediction: Prediction) -> str:
    return _percent(prediction.efficiency) + (f" ({prediction.group})" if prediction.group > 1 else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
