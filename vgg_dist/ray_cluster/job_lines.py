"""Lines from the processes of a Ray job, such as Ray Train's controller, to the command, which prints them.

They travel through the key-value store of Ray's head (`job_messages`). Ray's own way, by which it forwards what a process
prints, adds a prefix to each line and loses the last ones where the command ends first.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from vgg_dist.ray_cluster.job_messages import JobMessages

PREFIX = "lines/"
RETRY_S, TRIES = 1.0, 60  # Ray's head may be away for a while, and come back


class Line(NamedTuple):
    """One line for the terminal."""

    text: str
    is_live: bool = False
    """Whether a terminal shows it in place of the run's last live line; a file or pipe gets it as an ordinary line."""


class Store(Protocol):
    """The part of `JobMessages` that lines need."""

    def put(self, key: str, value: str) -> None:
        """Stores a value."""

    def get(self, key: str) -> str | None:
        """The value of a key; None where there is none."""

    def remove(self, key: str) -> None:
        """Deletes a key."""

    def keys(self, prefix: str) -> list[str]:
        """All keys with this prefix."""


def put_lines(store: Store, run: str, lines: Sequence[Line]) -> None:
    """Hands lines of the run named `run` to the job's command, behind those that were put before."""
    _put(store, _new_key(run), lines)


def _new_key(run: str) -> str:
    return f"{PREFIX}{time.time_ns():020}/{run}"


def _put(store: Store, key: str, lines: Sequence[Line]) -> None:
    store.put(key, json.dumps(lines))


class LineSender:
    """Sends the lines of one run, in order, from a thread: a head that does not answer must not hold up the training."""

    def __init__(self, run: str, store: Callable[[], Store] = JobMessages) -> None:
        self.run = run
        self.store = store
        self.queue: queue.SimpleQueue[tuple[str, Sequence[Line]] | threading.Event] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[type[LineSender], tuple[str, Callable[[], Store]]]:
        return LineSender, (self.run, self.store)

    def send(self, lines: Sequence[Line]) -> None:
        """Queues lines, and returns at once."""
        if not lines:
            return
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="lines", daemon=True)
            self.thread.start()
        self.queue.put((_new_key(self.run), lines))

    def flush(self, wait_s: float) -> None:
        """Returns once all queued lines are sent, after `wait_s` seconds at the latest."""
        if self.thread is not None:
            sent = threading.Event()
            self.queue.put(sent)
            sent.wait(wait_s)

    def _work(self) -> None:
        store = self.store()
        while True:
            item = self.queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            for _ in range(TRIES):
                with suppress(Exception):
                    _put(store, *item)
                    break
                time.sleep(RETRY_S)


class LineReader:
    """Takes the lines of all runs of the job out of the store, each once."""

    def __init__(self, store: Store, show: Callable[[str, Line], None]) -> None:
        """`show` is called with the name of the run and the line."""
        self.store = store
        self.show = show
        self.shown: set[str] = set()
        """Keys that were shown, but could not be removed yet."""

    def read(self) -> None:
        """Shows what has come since the last call. Raises what the store raises, where Ray's head is away."""
        for key in sorted(self.store.keys(PREFIX)):
            if key not in self.shown:
                value = self.store.get(key)
                for text, is_live in json.loads(value) if value is not None else ():
                    self.show(key.removeprefix(PREFIX).partition("/")[2], Line(text, is_live))
                self.shown.add(key)
            self.store.remove(key)
            self.shown.discard(key)
