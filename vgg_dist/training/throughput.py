"""The rates of a training, measured without slowing it down; and after which steps metrics are logged.

On a GPU the host runs ahead: a host thread that waits for a batch costs nothing while the GPU still has work. So only the
time that the GPU stands idle meanwhile counts as waiting for data, measured by events on its stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn

from pipelines.loading.epoch_plan import Step
from pipelines.loading.loader import Loader
from vgg_dist.config import TrainSettings
from vgg_dist.config.base import Interval
from vgg_dist.metric_names import (
    DATA_WAIT_SHARE,
    IMAGES_PER_SECOND,
    LOADER_IMAGES_PER_SECOND,
    MODEL_FLOPS_UTILIZATION,
    NETWORK_WAIT_SHARE,
    SLOWEST_WORKER,
    STEP_IMAGES_PER_SECOND,
    STEP_SECONDS_MEDIAN,
    STEP_SECONDS_SLOWEST,
)
from vgg_dist.models.build import macs
from vgg_dist.models.precision import matmul_peak, resolve_precision
from vgg_dist.training.network_wait import NetworkWait, timing_event
from vgg_dist.training.parallelism import Worker

LOADER_TRIAL_S = 3.0
GROWTH = 4  # the gap to the next log is at most four times the last one: the first steps compile, tune and warm up
TUNED_AFTER_LOGS = 4  # by then kernels are tuned: this log compares the rates of loader and step


class Throughput:
    """The clock of this worker between two logs, and what the clocks of all workers say."""

    def __init__(self, model: nn.Module, config: TrainSettings, worker: Worker, network_wait: NetworkWait) -> None:
        """`model`: with whole FC layers."""
        self.rank, self.world_size = worker.rank, worker.world_size
        self.flops_per_image = 6.0 * macs(model, config.image_size)  # forward, and twice that backward
        self.peak = matmul_peak(worker.device, resolve_precision(config.precision, worker.device)) * worker.world_size
        self.data_wait = DataWait(worker.device)
        self.network_wait = network_wait
        self.loader_rate: float | None = None if worker.device.type == "cuda" else 0.0
        """Images/s of this worker's loader alone; None: still to be measured, 0: not measured (on a CPU)."""
        self.logs = 0
        self.restart()

    def restart(self) -> None:
        """Starts the clock, after a log or a pause."""
        self.start, self.images = time.perf_counter(), 0
        self.data_wait.take()
        self.network_wait.take()

    def counters(self) -> list[float]:
        """This worker's images, seconds, seconds waited for data and for the network, and loader's images/s.

        Then, by rank, the seconds without those for the network: of this worker, and 0 for the others. All are to be summed
        over all workers. On a GPU its queue must have been drained.
        """
        elapsed, network = time.perf_counter() - self.start, self.network_wait.take()
        own = [0.0] * self.world_size
        own[self.rank] = elapsed - network
        return [self.images, elapsed, self.data_wait.take(), network, self.loader_rate or 0.0, *own]

    def metrics(self, counters: Sequence[float], steps: int) -> dict[str, float]:
        """The rates since the last log, `steps` steps ago, from the counters summed over all workers.

        The rates of the loader alone and of the steps without waiting, which show what limits a training, are in one log
        only.
        """
        images, seconds, waited, network, loader_rate, *own = counters
        rate = images * self.world_size / seconds
        metrics = {
            IMAGES_PER_SECOND: rate,
            DATA_WAIT_SHARE: waited / seconds,
            MODEL_FLOPS_UTILIZATION: rate * self.flops_per_image / self.peak,
        }
        if self.world_size > 1:
            slowest = max(range(self.world_size), key=own.__getitem__)
            metrics |= {
                NETWORK_WAIT_SHARE: network / seconds,
                STEP_SECONDS_MEDIAN: median(own) / steps,
                STEP_SECONDS_SLOWEST: own[slowest] / steps,
                SLOWEST_WORKER: float(slowest),
            }
        self.logs += 1
        if self.logs == TUNED_AFTER_LOGS and loader_rate:
            metrics |= {
                LOADER_IMAGES_PER_SECOND: loader_rate,
                STEP_IMAGES_PER_SECOND: images * self.world_size / max(seconds - waited, 1e-9),
            }
        return metrics

    def try_loader(self, loader: Loader, steps: list[Step]) -> None:
        """Measures the loader alone, once, where that is to be done. `steps`: those that training begins with."""
        if self.loader_rate is None and steps:  # there are none where only the validation is left
            self.loader_rate = measure_loader(loader, steps)


class DataWait:
    """Seconds for which the device was idle because a batch was not ready."""

    def __init__(self, device: torch.device, event: Callable[[], Any] = timing_event) -> None:
        self._event = event if device.type == "cuda" else None
        self._seconds = 0.0
        self._gaps: list[tuple[float, Any, Any]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        start = time.perf_counter()
        if self._event is None:
            yield
            self._seconds += time.perf_counter() - start
            return
        before, after = self._event(), self._event()
        before.record()  # the device reaches this event once its queue is empty
        yield
        waited = time.perf_counter() - start
        after.record()
        self._gaps.append((waited, before, after))

    def take(self) -> float:
        """The seconds waited since the last call. On a GPU its queue must have been drained."""
        for waited, before, after in self._gaps:
            self._seconds += min(waited, before.elapsed_time(after) / 1000)
        seconds, self._seconds, self._gaps = self._seconds, 0.0, []
        return seconds


class LogSchedule:
    """After which steps metrics are logged and checkpoints are written (--log-every, --checkpoint-every).

    All workers pass the same numbers, so they agree without communicating.
    """

    def __init__(self, log_every: Interval, checkpoint_every: Interval) -> None:
        self.log_every = log_every
        self.checkpoint_every = checkpoint_every
        self._next_log = 0
        self._last_gap = 0

    def log_due(self, step: int) -> bool:
        """Whether metrics are logged after this step. In seconds: after step 1, then when `logged` decides."""
        if self.log_every.steps is not None:
            return step % self.log_every.steps == 0
        return step >= self._next_log

    def checkpoint_due(self, step: int) -> bool:
        """Whether a checkpoint is due at this step; for an interval in seconds `logged` decides."""
        return self.checkpoint_every.steps is not None and step % self.checkpoint_every.steps == 0

    def logged(self, step: int, seconds_per_step: float, since_checkpoint: float) -> bool:
        """Notes that metrics were logged after this step; returns whether a checkpoint is due, for an interval in seconds.

        `since_checkpoint`: seconds since the last checkpoint. All workers must pass the same arguments.
        """
        if self.log_every.seconds is not None:
            gap = max(1, round(self.log_every.seconds / max(seconds_per_step, 1e-9)))
            gap = self._last_gap = min(gap, max(1, GROWTH * self._last_gap))
            self._next_log = step + gap
        return self.checkpoint_every.seconds is not None and since_checkpoint >= self.checkpoint_every.seconds


def measure_loader(loader: Loader, steps: list[Step]) -> float:
    """Images/s of the loader alone, over a few seconds. The iteration is abandoned; training starts one of its own."""
    batches = loader.batches(micro for step in steps for micro in step.micro_batches)
    start, images = math.nan, 0
    for batch in batches:
        now = time.perf_counter()
        if math.isnan(start):
            start = now  # the first batch includes the loader's set-up
            continue
        images += len(batch.labels)
        if now - start > LOADER_TRIAL_S:
            break
    return images / (time.perf_counter() - start) if images else 0.0
