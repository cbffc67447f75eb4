"""A run's status in MLflow, however the work on it ends."""

from __future__ import annotations

import contextlib
import signal
import sys

import pytest

from pipelines.signals import Stopped
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.tracking import TrackedRun, recorded

RUN = TrackedRun("sqlite:///none", "0", "0", 0.0, "/none")


@pytest.mark.parametrize(
    ("error", "status", "note", "has_curves"),
    [
        (None, "FINISHED", "", True),
        (TrainingError("worker 1 failed:\n  no room"), "FAILED", "worker 1 failed: no room", True),
        (KeyError("x" * 1000), "FAILED", "'" + "x" * 499, True),
        (Interrupted("SIGTERM", " at step 3"), "KILLED", "stopped by SIGTERM at step 3", False),
        (Stopped(signal.SIGINT), "KILLED", "", False),
    ],
)
def test_the_status_and_note_follow_from_how_the_work_ends(
    error: BaseException | None, status: str, note: str, has_curves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[str, str, bool]] = []

    def finish(run: TrackedRun, status: str, note: str = "", quick: bool = False) -> None:
        ended.append((status, note, not quick))

    monkeypatch.setattr(sys.modules[recorded.__module__], "finish_run", finish)
    raised = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with raised, recorded(RUN, quick=False):
        if error is not None:
            raise error
    assert ended == [(status, note, has_curves)]

    ended.clear()
    with recorded(RUN) as ending:
        ending.status, ending.note = "KILLED", "stopped early at epoch 1"
    assert ended == [("KILLED", "stopped early at epoch 1", False)]
