"""Decides which shard each sample of a store goes to, and under which name, before anything is written."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.stores.sample_store import SampleStore

BLOCK = 512  # of a tar
_JPEG = (".jpeg", ".jpe", ".jfif")
_MAX_KEY_BYTES = 90  # with an extension, it fits the 100 bytes of a tar header's name field


@dataclass(frozen=True)
class ShardPlan:
    """Where each sample goes. Arrays have one entry per sample, in the order of writing.

    `order`: index into the store. `shard`: number of its shard. `length`: size of the source image, bytes. `names`: of the
    members. `digest`: hexadecimal, of all this, the labels and the settings.
    """

    order: NDArray[np.int64]
    shard: NDArray[np.int32]
    length: NDArray[np.int64]
    names: list[str]
    digest: str


def plan_shards(
    store: SampleStore, split: str, pool: ThreadPoolExecutor, *, shard_bytes: int, seed: int, restart_markers: bool
) -> ShardPlan:
    """Decides where each sample goes."""
    # In chunks, because a million futures would take more memory than everything else here.
    chunks = np.array_split(np.arange(len(store)), len(store) // 1024 + 1)
    lengths = np.concatenate(list(pool.map(lambda chunk: [store.length(i) for i in chunk], chunks))).astype(np.int64)
    keys = member_keys(store)
    order = np.random.default_rng(seed).permutation(len(store))
    lengths, names = lengths[order], [keys[index] for index in order.tolist()]
    # A header and the padded image, then a header and the label.
    spans = BLOCK + _padded(lengths) + 2 * BLOCK
    _, shard = np.unique((np.cumsum(spans) - spans) // shard_bytes, return_inverse=True)
    texts = [split, str(restart_markers), *store.class_names, "", *names]
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape"))
    for array in (shard, lengths, store.labels[order]):
        digest.update(array.astype(np.int64).tobytes())
    return ShardPlan(order, shard.astype(np.int32), lengths, names, digest.hexdigest())


def member_keys(store: SampleStore) -> list[str]:
    """The name of each sample's image in the tar: `<class>/<stem>.<jpg|png|bmp|webp>`, unique without its extension.

    Dots and white space become `_`, because readers of such tars take the first dot of a file name as the start of the
    extension, and a blank as the end of the name.
    """
    taken: set[str] = set()
    keys = []
    for index, label in enumerate(store.labels.tolist()):
        stem, extension = os.path.splitext(re.split("[/:]", store.name(index))[-1])
        key = f"{_plain(store.class_names[label])}/{_plain(stem)}"
        if len(key.encode("utf-8", "surrogateescape")) > _MAX_KEY_BYTES or key in taken:
            key = f"{index:08d}"
        taken.add(key)
        suffix = extension.lower()
        keys.append(key + (".jpg" if suffix in _JPEG else suffix))
    return keys


def _plain(name: str) -> str:
    return re.sub(r"[.\s/]", "_", name)


def _padded(length: np.ndarray | int) -> np.ndarray | int:
    return (length + BLOCK - 1) // BLOCK * BLOCK
