"""How a command that trains ends when it is told to stop: its runs have ended, and one line says how to go on.

Ray is not shut down for that: with a thread that waits for it, it may abort with a page of stack trace. What this process
has started ends with it, by the kernel's word; of a cluster's processes those that worked for it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import signals
from vgg_dist.errors import Interrupted


@contextmanager
def stoppable_runs(command: str) -> Iterator[None]:
    """Around a command's work, from which Interrupted comes where it is stopped. At first a signal ends it at once."""
    with signals.stoppable(command, in_order=False):
        try:
            yield
        except Interrupted as stop:
            signals.tell_and_exit(signals.Stopped(signal.Signals[stop.by]), stop.how)
