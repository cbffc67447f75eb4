"""How a command that trains ends when it is told to stop: once its runs have ended, with one line on how to resume.

Ray is not shut down first: with a thread still waiting for it, it may abort with a page of stack trace. The processes that
this one has started end with it, and on a cluster those of its job.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import signals
from vgg_dist.errors import Interrupted


@contextmanager
def stoppable_runs(command: str) -> Iterator[None]:
    """Around a command's work, which raises Interrupted when it is stopped. Until it holds signals, one ends it at once."""
    with signals.stoppable(command, in_order=False):
        try:
            yield
        except Interrupted as stop:
            signals.tell_and_exit(signals.Stopped(signal.Signals[stop.by]), stop.how)
