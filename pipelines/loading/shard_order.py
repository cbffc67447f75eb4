"""The order of an epoch's samples in which each node needs few shards at a time: --shuffle blocks.

The shards, shuffled once by the seed, are cut into 128 runs of about equally many samples. Each run is gone through once an
epoch, and all of them at the same rate, so a batch has equally many samples of each run. Within a run the order of the
shards is drawn for each epoch, and the samples of every 2 shards in a row are shuffled together. A batch's samples are thus
from a window of 256 shards (65 GB, or 600,000 images of 110 kB, with shards of 256 MB), each of which is itself a random
sample of the data set, as `prepare shard` shuffles before it writes.

The samples of a batch are split over the workers by run: the first of n workers gets those of the first n-th of the runs,
in every batch of every epoch. So for any number of workers a node reads only its own share of the shards, each once an
epoch, and 256 / n of them at a time with n nodes; later epochs find them in its cache, if that holds the share. Which
samples a batch has does not depend on the number of workers, so a run can resume in mid-epoch with another number.

With more than 128 nodes several nodes read the samples of one run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.stores.sample_store import SampleStore

RUNS = 128
WINDOW = 2  # shards of a run whose samples are shuffled together
GOLDEN = 0.6180339887498949


def order_by_blocks(
    shards: NDArray[np.integer], keys: NDArray[np.uint64], seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The samples in order of use, (n,), and for each the place of its shard among the shards as the seed shuffles them.

    `shards` (n,): the shard that each sample is in. `keys` (n,): random numbers, by which samples are shuffled.
    """
    _, shard, counts = np.unique(shards, return_inverse=True, return_counts=True)
    place = np.empty(len(counts), np.int64)
    place[_shuffled(len(counts), seed)] = np.arange(len(counts))
    run = _runs(counts[np.argsort(place)])[place]
    # The shards in the order of an epoch, run after run, and the number of each one's window.
    in_turn = np.lexsort((_shuffled(len(counts), seed, epoch), run))
    first = np.searchsorted(run[in_turn], np.arange(run.max() + 1))
    turn = np.arange(len(counts)) - first[run[in_turn]]
    starts_window = turn % WINDOW == 0
    window = np.empty(len(counts), np.int64)
    window[in_turn] = np.cumsum(starts_window)
    samples = np.lexsort((keys, window[shard]))
    # Sample k of m in a run is due at the time (k + phase) / m; phases are spread, so that short batches are even, too.
    run_of = run[shard[samples]]
    sizes = np.bincount(run_of)
    number = np.arange(len(samples)) - (np.cumsum(sizes) - sizes)[run_of]
    due = (number + (run_of * GOLDEN) % 1.0) / sizes[run_of]
    order = samples[np.argsort(due, kind="stable")]
    return order, place[shard[order]]


def check_shuffle(shuffle: str, train: SampleStore, location: str) -> None:
    """Raises ValueError, one line, if --shuffle is blocks and the data at `location` have no shards."""
    if shuffle == "blocks" and train.shards() is None:
        raise ValueError(
            f"--shuffle blocks: --data {location} has no shards: use --shuffle full, or write shards with "
            "python -m pipelines.prepare shard"
        )


def _runs(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The run of each shard, ascending from 0, for shards with so many samples."""
    runs = max(1, min(RUNS, len(counts) // WINDOW))
    middles = np.cumsum(counts) - counts / 2
    return np.unique((middles * runs / counts.sum()).astype(np.int64), return_inverse=True)[1]


def _shuffled(count: int, *seeds: int) -> NDArray[np.int64]:
    # A stream of its own: the epoch's draws are made from SeedSequence([seed, epoch]).
    bits = np.random.PCG64(np.random.SeedSequence([*seeds, count], spawn_key=(1,)))
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)
