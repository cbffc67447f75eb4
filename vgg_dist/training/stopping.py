"""Makes all workers of a training stop at the same point, after a step or within a validation, when the command is stopped.

The stop request is a message that a thread of each worker polls once a second, so it costs no time in a step. Collective
work (a step, the reduction of a validation's sums) starts with `begin`, which counts it. A worker that sees the request
begins nothing new and publishes its count. All workers then finish the work up to the largest count, and stop. In work that
is not collective (the batches of a validation) a worker calls `check` and may stop at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

STOP_REQUEST = "stop"
POLL_S = 1.0
ANSWERS_POLL_S = 0.05


def training_key(name: str) -> str:
    """The key of the message that the workers of a run train or have trained, so the command waits for them to stop."""
    return f"training/{name}"


class Messages(Protocol):
    """A key-value store shared by the processes of a command. Its methods may raise anything while the network is down."""

    def put(self, key: str, value: str) -> None:
        """Stores a message, replacing one of the same key."""

    def get(self, key: str) -> str | None:
        """The message of a key; None if there is none."""

    def remove(self, key: str) -> None:
        """Removes a message if it is there."""


class AllStop(Exception):
    """Raised by every worker at the point where all of them stop."""


class StopAgreement:
    """One worker's side of the agreement. Without `messages` nothing ever stops."""

    def __init__(
        self, messages: Messages | None = None, group: str = "", rank: int = 0, world_size: int = 1, poll_s: float = POLL_S
    ) -> None:
        """`group`: a name that no other group of workers ever has."""
        self.messages = messages
        self.group = group
        self.rank = rank
        self.world_size = world_size
        self.poll_s = poll_s
        self._lock = threading.Lock()
        self._requested = False
        self._begun = 0
        self._last = 0
        self._agreed = threading.Event()
        self._over = threading.Event()

    @contextmanager
    def watching(self, key: str) -> Iterator[None]:
        """Polls for the request while the block runs. Rank 0 stores a message under `key`: see `training_key`."""
        if self.messages is None:
            yield
            return
        threading.Thread(target=self._watch, args=(key,), name="stop-watch", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def begin(self) -> None:
        """Call before collective work. Raises AllStop if all workers stop before it."""
        with self._lock:
            if not self._requested:
                self._begun += 1
                return
        self.check()
        self._begun += 1

    def check(self) -> None:
        """Call within work that is not collective. Raises AllStop if no worker has begun the collective work after it."""
        if not self._requested:
            return
        self._agreed.wait()
        if self._begun >= self._last:
            raise AllStop

    def _watch(self, key: str) -> None:
        announced = self.rank > 0
        while not self._agreed.is_set():
            try:
                if not announced:
                    self._messages.put(key, self.group)
                    announced = True
                if self._requested or self._messages.get(STOP_REQUEST) is not None:
                    self._answer()
            except Exception:  # Ray's head may be unreachable for a while; training continues
                pass
            if self._over.wait(ANSWERS_POLL_S if self._requested else self.poll_s):
                return

    def _answer(self) -> None:
        """Publishes this worker's count, and computes the largest one once all workers have published theirs."""
        with self._lock:
            self._requested = True
        self._messages.put(self._key(self.rank), str(self._begun))
        answers = [self._messages.get(self._key(rank)) for rank in range(self.world_size)]
        known = [int(answer) for answer in answers if answer is not None]
        if len(known) == self.world_size:
            self._last = max(known)
            self._agreed.set()

    @property
    def _messages(self) -> Messages:
        assert self.messages is not None
        return self.messages

    def _key(self, rank: int) -> str:
        return f"stop/{self.group}/{rank}"
