"""Prints how far the copying of a training's data to this node is, as other workers may be waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipelines.stores.sample_store import SampleStore

EVERY_S = 30.0


@contextmanager
def report_copying(
    stores: Sequence[SampleStore], who: str, say: Callable[[str], None] = print, every_s: float = EVERY_S
) -> Iterator[None]:
    """Prints a line every `every_s` seconds while the block copies what `stores` lack; nothing if they lack nothing."""

    def left() -> int:
        return sum(sum(store.to_fetch().values()) for store in stores)

    total, ended = left(), threading.Event()

    def print_lines() -> None:
        while not ended.wait(every_s):
            say(f"{who} is copying its data: {left() / 1e9:.1f} of {total / 1e9:.1f} GB are left")

    printer = threading.Thread(target=print_lines, name="copying-progress", daemon=True)
    if total:
        printer.start()
    try:
        yield
    finally:
        ended.set()
        if total:
            printer.join()
