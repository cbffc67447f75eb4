"""How a command that trains ends; when it is told to stop, once its runs have ended, with one line on how to resume.

Then Ray is not shut down first: with a thread still waiting for it, it may abort with a page of stack trace. The processes
that this one has started end with it, and on a cluster those of its job.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

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


def leave(status: int) -> NoReturn:
    """Ends a command's process as sys.exit does, but without tearing the interpreter down.

    With torch and MLflow loaded that takes seconds. What is registered with atexit is done.
    """
    if _is_command():
        atexit._run_exitfuncs()
        for stream in sys.stdout, sys.stderr:
            with suppress(OSError):  # the terminal may be closed
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _is_command() -> bool:
    """Whether this process is `python -m vgg_dist.COMMAND` or `vgg`, and not a test or another program that calls one."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name = Path(getattr(main, "__file__", None) or "").name if spec is None else spec.name
    return name.partition(".")[0] in ("vgg_dist", "vgg")
