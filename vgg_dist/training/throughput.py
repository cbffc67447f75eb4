"""How fast a training is and what it waits for, measured without holding it up; and after which steps that is looked at.

On a GPU the host runs ahead: a thread that waits for a batch costs nothing while the GPU still has work. So what counts as
waiting for data is the time that the GPU stood idle meanwhile, by events on its stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.loading.epoch_plan import Step
from pipelines.loading.loader import Loader
from vgg_dist.config.base import Interval

LOADER_TRIAL_S = 3.0
GROWTH = 4  # times as many steps to the next look than to the last: the first steps compile, tune and warm up


def _timing_event() -> Any:
    return torch.cuda.Event(enable_timing=True)


class DataWait:
    """Seconds for which the device had nothing to do because a batch was not there."""

    def __init__(self, device: torch.device, event: Callable[[], Any] = _timing_event) -> None:
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
        before.record()  # passed by the device when it is through with what it was given so far
        yield
        waited = time.perf_counter() - start
        after.record()
        self._gaps.append((waited, before, after))

    def take(self) -> float:
        """The seconds since the last call. On a GPU its queue must have been drained."""
        for waited, before, after in self._gaps:
            self._seconds += min(waited, before.elapsed_time(after) / 1000)
        seconds, self._seconds, self._gaps = self._seconds, 0.0, []
        return seconds


class Pace:
    """After which steps metrics are logged and checkpoints are due.

    By the same numbers on all workers, so that they agree without asking each other.
    """

    def __init__(self, log_every: Interval, checkpoint_every: Interval) -> None:
        self.log_every = log_every
        self.checkpoint_every = checkpoint_every
        self._next_look = 0
        self._last_gap = 0

    def log_due(self, step: int) -> bool:
        """Whether metrics are logged after this step; by time: after the first one, then as `looked` says."""
        if self.log_every.steps is not None:
            return step % self.log_every.steps == 0
        return step >= self._next_look

    def save_due(self, step: int) -> bool:
        """Whether a checkpoint is due at this very step; those by time are due when `looked` says so."""
        return self.checkpoint_every.steps is not None and step % self.checkpoint_every.steps == 0

    def looked(self, step: int, seconds_per_step: float, since_save: float) -> bool:
        """Metrics were logged after this step; whether a checkpoint by time is due now.

        `since_save`: seconds since the last checkpoint. All workers must give the same arguments.
        """
        if self.log_every.seconds is not None:
            gap = max(1, round(self.log_every.seconds / max(seconds_per_step, 1e-9)))
            gap = self._last_gap = min(gap, max(1, GROWTH * self._last_gap))
            self._next_look = step + gap
        return self.checkpoint_every.seconds is not None and since_save >= self.checkpoint_every.seconds


def measure_loader(loader: Loader, steps: list[Step]) -> float:
    """Images/s of the loader with nothing behind it, over seconds; the walk is given up, and training begins its own."""
    batches = loader.batches(micro for step in steps for micro in step.micro_batches)
    start, images = math.nan, 0
    for batch in batches:
        now = time.perf_counter()
        if math.isnan(start):
            start = now  # the first one takes setting up
            continue
        images += len(batch.labels)
        if now - start > LOADER_TRIAL_S:
            break
    return images / (time.perf_counter() - start) if images else 0.0
