"""Metrics of a training: the record that carries them, their names, and which errors rank one net above another.

The names are the same in a checkpoint's records.json, in MLflow and in outcome.json. `train/...` and the rates cover the
steps since the record before, `epoch/...` a whole epoch, `val/...` a validation. `best/...`, of the best net so far, is in
MLflow only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

EPOCH = "epoch"  # epochs trained, with a fraction; also in the records of validations
LR = "lr"
TRAIN_LOSS, TRAIN_TOP1_ERROR, TRAIN_TOP5_ERROR = "train/loss", "train/top1_error", "train/top5_error"
VAL_LOSS, VAL_TOP1_ERROR, VAL_TOP5_ERROR = "val/loss", "val/top1_error", "val/top5_error"
VAL_BAD_IMAGES, EPOCH_BAD_IMAGES = "val/bad_images", "epoch/bad_images"
IMAGES_PER_SECOND = "images_per_second"
DATA_WAIT_SHARE, NETWORK_WAIT_SHARE = "data_wait_share", "network_wait_share"
MODEL_FLOPS_UTILIZATION = "model_flops_utilization"
LOADER_IMAGES_PER_SECOND, STEP_IMAGES_PER_SECOND = "loader_images_per_second", "step_images_per_second"
WORLD_SIZE, MICRO_BATCH = "world_size", "micro_batch"
# A worker's own seconds in each step, without waiting for others: of the slowest one, whose rank is given, and the median.
STEP_SECONDS_SLOWEST, STEP_SECONDS_MEDIAN = "step_seconds/slowest", "step_seconds/median"
SLOWEST_WORKER = "slowest_worker"

TRAIN, EPOCH_TRAIN, VAL, BEST = "train/", "epoch/train_", "val/", "best/"  # prefixes

TOP = 5


class Record(TypedDict):
    """What was measured at one optimizer step: `time` in seconds since the Unix epoch, and one value per metric name."""

    step: int
    time: float
    metrics: dict[str, float]


def prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics under names that begin with `prefix`, such as VAL."""
    return {f"{prefix}{name}": value for name, value in metrics.items()}


def validation_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of a validation: the names that begin with VAL."""
    return {name: value for name, value in metrics.items() if name.startswith(VAL)}


def without_trivial_top5(metrics: Mapping[str, float], num_classes: int) -> dict[str, float]:
    """Without the top-5 errors where there are five classes or fewer, as they are always 0 there."""
    return {name: value for name, value in metrics.items() if num_classes > TOP or not name.endswith("top5_error")}


def validation_errors(metrics: Mapping[str, float]) -> tuple[float, ...] | None:
    """The key by which validations are ranked, smaller is better: (top-5 error, top-1 error); None without a validation.

    For five classes or fewer, which have no top-5 error, the top-1 error alone.
    """
    names = [name for name in (VAL_TOP5_ERROR, VAL_TOP1_ERROR) if name in metrics]
    return tuple(metrics[name] for name in names) or None


def describe_errors(metrics: Mapping[str, float]) -> str:
    """The errors of a validation, such as "top-1 error 26.70 %, top-5 error 8.10 %"."""
    names = {VAL_TOP1_ERROR: "top-1", VAL_TOP5_ERROR: "top-5"}
    return ", ".join(f"{words} error {metrics[name]:.2f} %" for name, words in names.items() if name in metrics)
