"""Estimates how long a training still takes from its latest steps: an exponential moving average of their rate."""

from __future__ import annotations

import math

SMOOTHED_S, SMOOTHED_INTERVALS = 120.0, 5  # averaged over the longer of the two: on a busy machine intervals differ by half


class TimeLeft:
    """Is given the time of each reported step, and returns the time left."""

    def __init__(self, epochs: int, max_steps: int | None) -> None:
        self.epochs = epochs
        self.max_steps = max_steps
        self.last: tuple[int, float, float] | None = None
        self.seconds = self.steps = self.trained = 0.0  # exponentially decayed sums

    def interrupted(self) -> None:
        """A validation took place: the time until the next step is not counted."""
        self.last = None

    def after(self, step: int, epoch: float, time: float) -> float | None:
        """Seconds left; None at first. `epoch`: epochs trained, with a fraction; `time`: when the step was done, seconds."""
        last, self.last = self.last, (step, epoch, time)
        if last is not None and step > last[0] and time > last[2]:
            kept = math.exp(-min((time - last[2]) / SMOOTHED_S, 1 / SMOOTHED_INTERVALS))
            self.seconds = kept * self.seconds + time - last[2]
            self.steps = kept * self.steps + step - last[0]
            self.trained = kept * self.trained + epoch - last[1]
        if not self.trained:
            return None
        left = (self.epochs - epoch) * self.seconds / self.trained
        if self.max_steps is not None:
            left = min(left, (self.max_steps - step) * self.seconds / self.steps)
        return max(0.0, left)


def duration(seconds: float) -> str:
    """Seconds in words: 3:07 or 2:03:07."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
