"""Ray and the signals that end a command.

Ray takes SIGTERM in every process that connects to it, and ends that on the spot. And it starts its own processes in the
command's process group: what a closed terminal or `timeout` sends to the group ends them before a checkpoint is written.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray._private.services
import ray._private.utils

from pipelines import signals


@contextmanager
def unreached_by_signals() -> Iterator[None]:
    """For the while that Ray starts: the signals stay the command's, and what Ray starts is in sessions of its own."""
    services: Any = ray._private.services
    utils: Any = ray._private.utils
    popen, set_handler = services.ConsolePopen, utils.set_sigterm_handler
    services.ConsolePopen = functools.partial(popen, start_new_session=True)
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = popen, set_handler
        signals.retake()  # Ray's C++ has a handler of SIGTERM, too, that prints a stack trace
