"""Where all workers of a training stop, once its command is told to: after the same step, or in the same validation.

The wish is a message that a thread of each worker looks for once a second, so steps cost nothing for it. Work that all of
them take part in (a step, the sums of a validation) starts with `begin`, which counts it. A worker that hears of the wish
begins nothing new and says how far its count is. What the first of them has begun is the last; the others finish that, too.
Between, where a worker is on its own (a validation's batches), it may give up what it is doing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

WISH = "stop"
POLL_S = 1.0
ANSWERS_POLL_S = 0.05


def training_key(name: str) -> str:
    """The key of the message that a run's workers train, or have trained: their end is waited for."""
    return f"training/{name}"


class Messages(Protocol):
    """What the processes of a command tell each other. The methods may raise anything while the network is away."""

    def put(self, key: str, value: str) -> None:
        """Leaves a message, in place of one of the same key."""

    def get(self, key: str) -> str | None:
        """The message of a key."""

    def remove(self, key: str) -> None:
        """Takes a message away, if it is there."""


class AllStop(Exception):
    """All workers stop here, each raises this."""


class StopAgreement:
    """One worker's part in it. Without messages nothing ever stops."""

    def __init__(
        self, messages: Messages | None = None, group: str = "", rank: int = 0, world_size: int = 1, poll_s: float = POLL_S
    ) -> None:
        """`group`: a name that these workers have for themselves alone, now and later."""
        self.messages = messages
        self.group = group
        self.rank = rank
        self.world_size = world_size
        self.poll_s = poll_s
        self._lock = threading.Lock()
        self._wished = False
        self._begun = 0
        self._last = 0
        self._agreed = threading.Event()
        self._over = threading.Event()

    @contextmanager
    def watching(self, key: str) -> Iterator[None]:
        """For the while that the worker trains; the first one leaves a message under `key` that it does, or has."""
        if self.messages is None:
            yield
            return
        threading.Thread(target=self._watch, args=(key,), name="stop-watch", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def begin(self) -> None:
        """Before work that all workers take part in. Raises AllStop where they stop before it."""
        with self._lock:
            if not self._wished:
                self._begun += 1
                return
        self.check()
        self._begun += 1

    def check(self) -> None:
        """Within work of this worker alone. Raises AllStop where no worker has begun what comes after it."""
        if not self._wished:
            return
        self._agreed.wait()
        if self._begun >= self._last:
            raise AllStop

    def _watch(self, key: str) -> None:
        told = self.rank > 0
        while not self._agreed.is_set():
            try:
                if not told:
                    self._messages.put(key, self.group)
                    told = True
                if self._wished or self._messages.get(WISH) is not None:
                    self._answer()
            except Exception:  # the head may be away for a while; training goes on
                pass
            if self._over.wait(ANSWERS_POLL_S if self._wished else self.poll_s):
                return

    def _answer(self) -> None:
        """Says what this worker has begun, and learns what the last of all is, once all have said it."""
        with self._lock:
            self._wished = True
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
