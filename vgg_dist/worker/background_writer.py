"""Writes checkpoints to the storage in a thread, while training continues."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """Runs one write at a time, in a daemon thread, and keeps its result until it is taken."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._written: T | None = None
        self.error: OSError | None = None
        """Why the storage refused the last write; None if it did not."""
        self._failure: BaseException | None = None

    def start(self, write: Callable[[], T]) -> None:
        """Starts a write, after waiting for the one before."""
        self.wait()

        def work() -> None:
            try:
                self._written = write()
            except OSError as error:
                self.error = error
            except BaseException as error:
                self._failure = error

        self._thread = threading.Thread(target=work, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits until nothing is being written. Raises what the write raised, unless it was an OSError."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raises what the write raised, unless it was an OSError."""
        if self._failure is not None:
            raise self._failure

    @property
    def has_written(self) -> bool:
        """Whether there is a result to take."""
        return self._written is not None

    def take(self) -> T | None:
        """The result of a finished write, once; None if there is none."""
        written, self._written = self._written, None
        return written
