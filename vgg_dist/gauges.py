"""Trainings as Prometheus finds them at a Ray cluster's metrics ports: `ray_vgg_dist_train_loss{run="e-256"}` and others.

One process of the cluster keeps them and outlives the jobs: how a run ended must still be there when Prometheus next looks.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.metrics import Gauge

from vgg_dist.tracking import Record

# Name -> the record's key, and what it is.
FROM_RECORDS = {
    "epoch": ("epoch", "epochs trained, with their fractions"),
    "train_loss": ("train/loss", "training loss since the last report"),
    "images_per_second": ("images_per_second", "training images a second, all workers together"),
    "data_wait_share": ("data_wait_share", "share of the time that steps wait for images, 0 to 1"),
    "model_flops_utilization": ("model_flops_utilization", "share of the hardware's measured peak, 0 to 1"),
    "world_size": ("world_size", "workers"),
    "val_top1_error": ("val/top1_error", "top-1 error of the last validation, percent"),
    "val_top5_error": ("val/top5_error", "top-5 error of the last validation, percent"),
}
OTHERS = {
    "running": "1 from a run's start to its end",
    "step": "the last step that was reported",
    "report_time_seconds": "when that was, seconds since 1970",
    # Counts, which begin with 0 so that there is something to compare with: Ray's counters cannot.
    "bad_images": "images met in training that cannot be decoded",
    "worker_failures": "workers that failed, were lost or were killed",
    "non_finite": "times that the run ended because its loss was not finite",
}


class _Keeper:
    """The process that keeps them."""

    def __init__(self) -> None:
        texts = {name: text for name, (_, text) in FROM_RECORDS.items()} | OTHERS
        self.gauges = {name: Gauge(f"vgg_dist_{name}", text, ("run",)) for name, text in texts.items()}
        self.counts: Counter[tuple[str, str]] = Counter()

    def set(self, run: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.gauges[name].set(value, {"run": run})

    def add(self, run: str, values: dict[str, int]) -> None:
        for name, value in values.items():
            self.counts[run, name] += value
            self.set(run, {name: self.counts[run, name]})


class Gauges:
    """A run's; nothing where Ray was started by the command itself, for the while: there nobody looks."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.keeper: Any = None
        if "RAY_ADDRESS" in os.environ:
            # With the head: workers' nodes come and go, and what was kept on them would go too.
            keeper = ray.remote(num_cpus=0, max_restarts=-1, resources={"node:__internal_head__": 0.001})(_Keeper)
            known = {"name": "gauges", "namespace": "vgg_dist", "get_if_exists": True, "lifetime": "detached"}
            self.keeper = keeper.options(**known).remote()

    def begin(self) -> None:
        """The run starts."""
        self._tell("set", {"running": 1})
        self._tell("add", {"bad_images": 0, "worker_failures": 0, "non_finite": 0})

    def take(self, records: Sequence[Record]) -> None:
        """What the workers reported."""
        for record in records:
            metrics = record["metrics"]
            known = {name: metrics[key] for name, (key, _) in FROM_RECORDS.items() if key in metrics}
            self._tell("set", known | {"step": record["step"], "report_time_seconds": record["time"]})
            self._tell("add", {"bad_images": int(metrics.get("epoch/bad_images", 0))})

    def add(self, name: str, more: int = 1) -> None:
        """To one of the counts."""
        self._tell("add", {name: more})

    def end(self) -> None:
        """The run is over, however it ended."""
        if (said := self._tell("set", {"running": 0})) is not None:
            with contextlib.suppress(ray.exceptions.RayError):  # a run's end does not fail for it
                ray.get(said, timeout=5)  # what was said before is then said too

    def _tell(self, what: str, values: dict[str, Any]) -> Any:
        return None if self.keeper is None else getattr(self.keeper, what).remote(self.run, values)
