"""What a command does with its run in MLflow from its opening to its end: the status is set however the command ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pipelines import signals
from vgg_dist.errors import Interrupted
from vgg_dist.tracking.run import TrackedRun, finish_run

NOTE_LENGTH = 500


@dataclass
class Ending:
    """The status and note of a run whose work ends without an error; the work may change them."""

    status: str = "FINISHED"
    note: str = ""


@contextlib.contextmanager
def recorded(run: TrackedRun, quick: bool = True) -> Iterator[Ending]:
    """Around the work of a run: at its end the status in MLflow is FINISHED, or as the work has set it.

    KILLED for work that a signal stopped, FAILED for any other error, with the error as the note. `quick`: without learning
    curves. Where a signal ends the process at once, the status is KILLED, too.
    """
    ending = Ending()
    try:
        with signals.at_last(partial(finish_run, run, "KILLED", quick=True)):
            yield ending
    except BaseException as error:
        is_stopped = isinstance(error, Interrupted | signals.Stopped)
        note = "" if isinstance(error, SystemExit) else " ".join(str(error).split())[:NOTE_LENGTH]
        finish_run(run, "KILLED" if is_stopped else "FAILED", note, quick=quick or is_stopped)
        raise
    finish_run(run, ending.status, ending.note, quick=quick)
