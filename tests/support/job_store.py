"""What the processes of a Ray job share, in memory."""

from __future__ import annotations


class Store(dict[str, str]):
    """A key-value store in memory. `failures`: calls that fail first, before or after what they should do is done."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.failures = failures

    def _fail(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError

    def put(self, key: str, value: str) -> None:
        self[key] = value
        self._fail()

    def get(self, key: str) -> str | None:  # type: ignore[override]
        return super().get(key)

    def remove(self, key: str) -> None:
        self._fail()
        self.pop(key, None)

    def keys(self, prefix: str = "") -> list[str]:  # type: ignore[override]
        return [key for key in self if key.startswith(prefix)]
