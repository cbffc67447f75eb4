"""For how long a worker waits for the network: for gradients at the end of a step, and for the features of split FC layers.

That includes waiting for a slower worker. The time that remains of a step is the worker's own, so the slowest worker is the
one that waits least.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def timing_event() -> Any:
    """An event on a CUDA stream that records when it is reached."""
    return torch.cuda.Event(enable_timing=True)


class NetworkWait:
    """Adds up the waits. On a GPU they are measured by events on its stream, which cost the host nothing."""

    def __init__(self, device: torch.device, event: Callable[[], Any] = timing_event) -> None:
        self._event = event if device.type == "cuda" else None
        self._seconds = 0.0
        self._begun: Any = None
        self._gaps: list[tuple[Any, Any]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a collective call that the device waits for."""
        before = self._now()
        yield
        self._add(before)

    def begin(self) -> None:
        """The device has nothing to do from here on but to wait, until `end`."""
        self._begun = self._now()

    def end(self) -> None:
        """The wait since `begin` is over; a no-op where none has begun."""
        if self._begun is not None:
            self._add(self._begun)
            self._begun = None

    def take(self) -> float:
        """The seconds waited since the last call. On a GPU its queue must have been drained."""
        for before, after in self._gaps:
            self._seconds += before.elapsed_time(after) / 1000
        seconds, self._seconds, self._gaps = self._seconds, 0.0, []
        return seconds

    def _now(self) -> Any:
        if self._event is None:
            return time.perf_counter()
        event = self._event()
        event.record()
        return event

    def _add(self, before: Any) -> None:
        if self._event is None:
            self._seconds += time.perf_counter() - before
        else:
            self._gaps.append((before, self._now()))
