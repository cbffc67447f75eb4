"""Says how far the copying of a training's data to this node is: the other workers may be waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipelines.stores.sample_store import SampleStore

EVERY_S = 30.0


@contextmanager
def telling_progress(
    stores: Sequence[SampleStore], who: str, say: Callable[[str], None] = print, every_s: float = EVERY_S
) -> Iterator[None]:
    """While the block copies what `stores` lack, a line now and then. Where nothing is lacking, none."""

    def left() -> int:
        return sum(sum(store.to_fetch().values()) for store in stores)

    total, ended = left(), threading.Event()

    def tell() -> None:
        while not ended.wait(every_s):
            say(f"{who} copies its data, {left() / 1e9:.1f} of {total / 1e9:.1f} GB are left")

    teller = threading.Thread(target=tell, name="copying-progress", daemon=True)
    if total:
        teller.start()
    try:
        yield
    finally:
        ended.set()
        if total:
            teller.join()
