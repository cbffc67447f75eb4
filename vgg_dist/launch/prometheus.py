"""Metrics of trainings for Prometheus, at a Ray cluster's metrics ports: `ray_vgg_dist_train_loss{run="e-256"}` and others.

One actor on the cluster holds the values and outlives the jobs: how a run ended must still be there at the next scrape. It
sets the values again and again, because Ray expires stale gauges.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.util.metrics import Gauge

from vgg_dist.metric_names import Record
from vgg_dist.ray_cluster.address import cluster_named

# Name -> the record's key, and what it is.
FROM_RECORDS = {
    "epoch": ("epoch", "epochs trained, with a fraction"),
    "train_loss": ("train/loss", "training loss since the last report"),
    "images_per_second": ("images_per_second", "training images per second, all workers together"),
    "data_wait_share": ("data_wait_share", "share of the time in which steps wait for images, 0 to 1"),
    "network_wait_share": ("network_wait_share", "share of the time in which workers wait for each other, 0 to 1"),
    "step_seconds_slowest": ("step_seconds/slowest", "a step without waiting for others, of the slowest worker, seconds"),
    "step_seconds_median": ("step_seconds/median", "a step without waiting for others, of the median worker, seconds"),
    "slowest_worker": ("slowest_worker", "rank of the slowest worker"),
    "model_flops_utilization": ("model_flops_utilization", "share of the hardware's measured peak, 0 to 1"),
    "world_size": ("world_size", "workers"),
    "val_top1_error": ("val/top1_error", "top-1 error of the last validation, percent"),
    "val_top5_error": ("val/top5_error", "top-5 error of the last validation, percent"),
}
OTHERS = {
    "running": "1 while the run trains",
    "step": "the last step that was reported",
    "report_time_seconds": "when that was, seconds since 1970",
}
# Gauges that start at 0, so that Prometheus sees the first increase; Ray's counters do not appear before it.
COUNTS = {
    "bad_images": "images in training that cannot be decoded",
    "worker_failures": "workers that failed, were lost or were killed",
    "non_finite": "times that the run ended because its loss was not finite",
}
REPEAT_S = 5.0  # Ray expires a gauge that is not set again within 20 s
HEARTBEAT_S = 15.0  # how often a run sends a heartbeat
SILENT_S = 60.0  # without one for so long, its process was killed: it is not running
DROP_S = 600.0  # and by then Prometheus has scraped its last values


class _Keeper:
    """The actor that holds the values of all runs."""

    def __init__(self) -> None:
        texts = {name: text for name, (_, text) in FROM_RECORDS.items()} | OTHERS | COUNTS
        self.gauges = {name: Gauge(f"vgg_dist_{name}", text, ("run",)) for name, text in texts.items()}
        self.runs: dict[str, dict[str, float]] = {}
        self.heard_at: dict[str, float] = {}
        self.lock = threading.Lock()
        threading.Thread(target=self._repeat, daemon=True).start()

    def set(self, run: str, values: dict[str, float]) -> None:
        with self.lock:
            self.runs.setdefault(run, {}).update(values)
            self.heard_at[run] = time.monotonic()

    def add(self, run: str, values: dict[str, float]) -> None:
        known = self.runs.get(run, {})
        self.set(run, {name: known.get(name, 0) + value for name, value in values.items()})

    def _repeat(self) -> None:
        while True:
            with self.lock:
                for run in list(self.runs):
                    self._export(run, time.monotonic() - self.heard_at[run])
            time.sleep(REPEAT_S)

    def _export(self, run: str, silent_s: float) -> None:
        if silent_s > DROP_S:
            del self.runs[run], self.heard_at[run]
            return
        if silent_s > SILENT_S:
            self.runs[run]["running"] = 0
        for name, value in self.runs[run].items():
            self.gauges[name].set(value, {"run": run})


class Gauges:
    """Sends the metrics of one run to the actor. No-op on a temporary local Ray, which nothing scrapes."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.keeper: Any = None
        if cluster_named():
            # On the head: the workers' nodes come and go, and the values would go with them.
            keeper = ray.remote(num_cpus=0, max_restarts=-1, resources={"node:__internal_head__": 0.001})(_Keeper)
            known = {"name": "gauges", "namespace": "vgg_dist", "get_if_exists": True, "lifetime": "detached"}
            # DEFAULT: not in a trial's placement group, which has no room for it and ends with the trial.
            self.keeper = keeper.options(**known, scheduling_strategy="DEFAULT").remote()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Reports the run as running, with a heartbeat, until the block ends."""
        over = threading.Event()

        def send_heartbeats() -> None:
            while not over.wait(HEARTBEAT_S):
                self._send("set", {"running": 1})

        self._send("set", {"running": 1})
        self._send("add", dict.fromkeys(COUNTS, 0))
        heartbeats = threading.Thread(target=send_heartbeats, daemon=True)
        heartbeats.start()
        try:
            yield
        finally:
            over.set()
            heartbeats.join()
            self._send("set", {"running": 0})

    def take(self, records: Sequence[Record]) -> None:
        """Sends what the workers reported."""
        for record in records:
            metrics = record["metrics"]
            known = {name: metrics[key] for name, (key, _) in FROM_RECORDS.items() if key in metrics}
            self._send("set", known | {"step": record["step"], "report_time_seconds": record["time"]})
            self._send("add", {"bad_images": metrics.get("epoch/bad_images", 0)})

    def add(self, name: str, more: int = 1) -> None:
        """Adds to one of COUNTS."""
        self._send("add", {name: more})

    def _send(self, what: str, values: dict[str, float]) -> None:
        if self.keeper is not None:
            getattr(self.keeper, what).remote(self.run, values)
