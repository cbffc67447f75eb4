"""Makes all workers of a training stop at the same point, after a step or within a validation.

They stop for good when the command is told to stop. They leave, and another group takes over, when a node joins or is to be
taken away.

The request is a message that a thread of each worker polls once a second, so it costs no time in a step. Collective
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
STOP, LEAVE = "stop", "leave"
POLL_S = 1.0
ANSWERS_POLL_S = 0.05


def leave_key(group: str) -> str:
    """The key of the request that a group of workers leaves: its training goes on in another group."""
    return f"leave/{group}"


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
        self._requested = ""
        """STOP or LEAVE, once this worker has seen a request."""
        self.leaves = False
        """When AllStop is raised: whether the training goes on in another group."""
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
                if request := self._requested or self._request():
                    self._answer(request)
            except Exception:  # Ray's head may be unreachable for a while; training continues
                pass
            if self._over.wait(ANSWERS_POLL_S if self._requested else self.poll_s):
                return

    def _request(self) -> str:
        if self._messages.get(STOP_REQUEST) is not None:
            return STOP
        return LEAVE if self._messages.get(leave_key(self.group)) is not None else ""

    def _answer(self, request: str) -> None:
        """Publishes this worker's count, and computes the largest one once all workers have published theirs.

        They have seen different requests if both came within the same second: then they stop.
        """
        with self._lock:
            self._requested = request
        self._messages.put(self._key(self.rank), f"{self._begun} {request}")
        answers = [self._messages.get(self._key(rank)) for rank in range(self.world_size)]
        known = [answer.split() for answer in answers if answer is not None]
        if len(known) == self.world_size:
            self._last = max(int(begun) for begun, _ in known)
            self.leaves = all(seen == LEAVE for _, seen in known)
            self._agreed.set()

    @property
    def _messages(self) -> Messages:
        assert self.messages is not None
        return self.messages

    def _key(self, rank: int) -> str:
        return f"stop/{self.group}/{rank}"
