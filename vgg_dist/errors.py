"""The errors that end a training after it was started. Each message is one line for the user."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A run that was started and failed."""


class Interrupted(TrainingError):
    """A run whose command was told to stop. `by`: the signal; `how`: how the run ended, to follow "stopped by SIGTERM"."""

    def __init__(self, by: str, how: str) -> None:
        super().__init__(by, how)
        self.by = by
        self.how = how

    def __str__(self) -> str:
        return f"stopped by {self.by}{self.how}"


class NonFinite(TrainingError):
    """A run whose loss became infinite or NaN."""
