"""Decides whether a training's shards are copied to this node first, and prints how far that is, as others may wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipelines.remote import size_text
from pipelines.stores.sample_store import CacheUse, SampleStore

EVERY_S = 30.0


def cache_use(stores: Sequence[SampleStore]) -> CacheUse:
    """The use of the node's cache by several stores; zeros for local data."""
    uses = [use for store in stores if (use := store.cache_use()) is not None]
    if not uses:
        return CacheUse(0, 0, 0, "")
    total, cached = sum(use.total for use in uses), sum(use.cached for use in uses)
    return CacheUse(total, cached, uses[0].capacity, uses[0].limit)


def pays_to_copy(total: int, capacity: int, nodes: int, epochs: int) -> bool:
    """Whether as many shards as fit are to be copied to each node before a training that reads them in random order.

    If all of their `total` bytes fit into the cache's `capacity`, yes. Otherwise a copied shard saves reading a share of
    1/nodes of it from the URL in each epoch.
    """
    return total <= capacity or nodes < epochs


def cache_note(split: str, store: SampleStore) -> str:
    """A line on how much of a split's shards this node has, for a training in random order; "" if it has all."""
    use = store.cache_use()
    if use is None or use.cached == use.total:
        return ""
    return (
        f"{split}: {size_text(use.cached)} of {size_text(use.total)} of shards are in this node's cache ({use.limit}): the"
        " other images are read from the URL one by one"
    )


@contextmanager
def report_copying(
    stores: Sequence[SampleStore], who: str, say: Callable[[str], None] = print, every_s: float = EVERY_S
) -> Iterator[None]:
    """Prints a line every `every_s` seconds while the block copies what of `stores` fits; nothing if there is nothing to."""
    before = cache_use(stores)
    total, ended = max(0, min(before.total, before.capacity) - before.cached), threading.Event()

    def print_lines() -> None:
        while not ended.wait(every_s):
            left = max(0, total - cache_use(stores).cached + before.cached)
            say(f"{who} is copying its data: {size_text(left)} of {size_text(total)} are left")

    printer = threading.Thread(target=print_lines, name="copying-progress", daemon=True)
    if total:
        printer.start()
    try:
        yield
    finally:
        ended.set()
        if total:
            printer.join()
