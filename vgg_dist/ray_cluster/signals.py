"""Keeps Ray from handling the signals that end a command.

Ray installs a handler for SIGTERM in every process that connects to it, and ends the process at once. It also starts its own
processes in the command's process group: a signal to the group, from a closed terminal or `timeout`, would end them before a
checkpoint is written.
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
    """While Ray starts: the command keeps its signal handlers, and Ray's processes get sessions of their own."""
    services: Any = ray._private.services
    utils: Any = ray._private.utils
    popen, set_handler = services.ConsolePopen, utils.set_sigterm_handler
    services.ConsolePopen = functools.partial(popen, start_new_session=True)
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = popen, set_handler
        signals.retake()  # Ray's C++ installs one for SIGTERM, too, that prints a stack trace
