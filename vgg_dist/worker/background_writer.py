"""A checkpoint on its way to the storage, while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """Writes one thing at a time, in a thread that ends with the process; keeps what that returned until it is taken."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._written: T | None = None
        self.error: OSError | None = None
        """Why the storage did not take it."""
        self._bug: BaseException | None = None

    def start(self, write: Callable[[], T]) -> None:
        """Begins, once what was begun before is through."""
        self.wait()

        def work() -> None:
            try:
                self._written = write()
            except OSError as error:
                self.error = error
            except BaseException as error:
                self._bug = error

        self._thread = threading.Thread(target=work, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written. Raises what the writing raised, unless it was an OSError."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raises what the writing raised, unless it was an OSError."""
        if self._bug is not None:
            raise self._bug

    @property
    def has_written(self) -> bool:
        """Whether there is something to take."""
        return self._written is not None

    def take(self) -> T | None:
        """What was written whole since the last call; None while it is being written."""
        written, self._written = self._written, None
        return written
