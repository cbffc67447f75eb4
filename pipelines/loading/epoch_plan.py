"""EpochPlan: every random choice of an epoch as a pure function of (seed, epoch).

The permutation, the scale S, the crop position, the flip and the RGB shift of all images of an epoch are arrays, drawn at
once. A loader therefore has no random state: the position of a run in an epoch is one integer, the number of samples seen.
Any number of workers slices the same arrays, so a run can resume in mid-epoch with another number of workers and sees
exactly the remaining images, each once, with the crops they would have had.

By default any image may come at any time of the epoch. For data in shards behind a URL that are too large for the nodes'
caches, `pipelines.loading.shard_order` has an order that needs few shards at a time.

Paper, section 2 (training): random crop, horizontal flip, random RGB shift (Krizhevsky et al. 2012), scale jittering.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipelines.loading.shard_order import order_by_blocks

# Principal components of ImageNet's RGB values in [0, 1] (Krizhevsky et al. 2012, section 4.1); rows are R, G, B.
RGB_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
RGB_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]],
)


@dataclass(frozen=True)
class Augmentation:
    """The random augmentation of training images.

    `scale`: range [low, high] of S, the smallest side after rescaling, drawn uniformly from its integers. `flip`: mirror
    with probability 1/2. `color_shift`: standard deviation of the factors on the RGB principal components (Krizhevsky et al.
    use 0.1; 0 switches the shift off).
    """

    scale: tuple[int, int] = (256, 256)  # S
    flip: bool = True
    color_shift: float = 0.1


@dataclass(frozen=True)
class Samples:
    """Consecutive samples of an epoch, n of them, as arrays: the image and all that was drawn for it.

    index (n,) int64 into the store; scale (n,) int32, S in pixels; position (n, 2) float64 in [0, 1), the crop's (y, x) as
    a fraction of the range of possible corners; flip (n,) bool; shift (n, 3) float32, added to R, G, B on the 0-255 scale.
    """

    index: NDArray[np.int64]
    scale: NDArray[np.int32]
    position: NDArray[np.float64]
    flip: NDArray[np.bool_]
    shift: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, part: slice) -> Samples:
        return Samples(self.index[part], self.scale[part], self.position[part], self.flip[part], self.shift[part])

    def at(self, rows: NDArray[np.int64]) -> Samples:
        """The samples at `rows` (m,)."""
        return Samples(self.index[rows], self.scale[rows], self.position[rows], self.flip[rows], self.shift[rows])


def concatenate(parts: Sequence[Samples]) -> Samples:
    """Several `Samples` as one, in order."""
    if len(parts) == 1:
        return parts[0]
    fields = (field.name for field in dataclasses.fields(Samples))
    return Samples(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


@dataclass(frozen=True)
class Step:
    """One optimizer step as one worker sees it.

    `end`: the number of samples of the epoch that all workers together have used after the step. `count`: images in the
    step, over all workers. `micro_batches`: this worker's share of them; all workers have the same number of micro-batches.
    """

    end: int
    count: int
    micro_batches: list[Samples]


# Dummy sample for a worker without images in a step; it still joins the all-reduce.
DUMMY_SAMPLE = Samples(
    np.array([-1]), np.ones(1, np.int32), np.zeros((1, 2)), np.zeros(1, np.bool_), np.zeros((1, 3), np.float32)
)


def pad_samples(samples: Samples, size: int) -> Samples:
    """The samples padded to `size` with dummy samples, which are ignored, so that all batches have one shape."""
    return concatenate([samples, *[DUMMY_SAMPLE] * max(0, size - len(samples))])


class EpochPlan:
    """The samples of one training epoch in the order of use. See the module's docstring.

    `shards` (n,): the shard that each sample is in, for the order by blocks (`pipelines.loading.shard_order`).
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        epoch: int,
        augmentation: Augmentation,
        shards: NDArray[np.integer] | None = None,
    ) -> None:
        # The raw stream of a NumPy bit generator is the same in all versions, that of Generator's methods is not, and a run
        # may be resumed on a node with another NumPy.
        bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
        low, high = augmentation.scale

        def uniform(*shape: int) -> NDArray[np.float64]:
            raw = bits.random_raw(int(np.prod(shape))).reshape(shape)
            return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

        keys = bits.random_raw(num_samples)
        if shards is None:
            order, self._place = np.argsort(keys, kind="stable"), None
        else:
            order, self._place = order_by_blocks(shards, keys, seed, epoch)
        scale = (low + np.floor(uniform(num_samples) * (high - low + 1))).astype(np.int32)
        position = uniform(num_samples, 2)
        flip = (uniform(num_samples) < 0.5) & augmentation.flip
        # Box-Muller transform; 1 - u keeps the logarithm's argument above zero.
        radius = np.sqrt(-2.0 * np.log(1.0 - uniform(num_samples, 3)))
        normal = radius * np.cos(2.0 * np.pi * uniform(num_samples, 3))
        alpha = augmentation.color_shift * normal
        shift = 255.0 * (alpha * RGB_EIGENVALUES) @ RGB_EIGENVECTORS.T
        self.samples = Samples(order.astype(np.int64), scale, position, flip, shift.astype(np.float32))

    def __len__(self) -> int:
        return len(self.samples)

    def step_ends(self, global_batch: int) -> NDArray[np.int64]:
        """Where each step of the epoch ends, in samples.

        The epoch is cut into the fewest steps of at most `global_batch` images, whose sizes differ by at most one image. No
        image is dropped or used twice, and no tiny last batch disturbs the weights or the batch statistics.
        """
        steps = -(-len(self) // global_batch)
        return np.arange(1, steps + 1, dtype=np.int64) * len(self) // steps

    def largest_micro_batch(self, global_batch: int, world_size: int, micro_batch: int) -> int:
        """The size of the largest micro-batch that any worker gets in an epoch; see `steps`."""
        counts = np.unique(np.diff(self.step_ends(global_batch), prepend=0))
        largest_shares = -(-counts // world_size)
        pieces = -(-largest_shares // micro_batch)
        return int((-(-largest_shares // pieces)).max())

    def steps(self, start: int, global_batch: int, rank: int, world_size: int, micro_batch: int) -> Iterator[Step]:
        """Worker `rank`'s share of each step after the first `start` samples of the epoch.

        `start` may lie inside a step, if the run began with another global batch; the first step is then the rest of that
        one. The images of a step are split over the workers, then into micro-batches of at most `micro_batch`; the sizes
        differ by at most one image. Where there are fewer images than micro-batches, some have a dummy sample only.
        """
        for end, count, rows in self._shares(start, global_batch, rank, rank + 1, world_size):
            parts = micro_batch_rows(rows, count, world_size, micro_batch)
            yield Step(end, count, [self.samples.at(part) if len(part) else DUMMY_SAMPLE for part in parts])

    def micro_batch_images(
        self, step: Step, ranks: range, world_size: int, micro_batch: int
    ) -> list[list[NDArray[np.int64]]]:
        """What the workers `ranks`, which are consecutive, have in a step: for each its micro-batches, as indices (m,)."""
        start, order = step.end - step.count, self._order(step.end - step.count, step.end)
        cuts = [step.count * rank // world_size for rank in (*ranks, ranks.stop)]
        shares = [start + order[slice(*cut)] for cut in pairwise(cuts)]
        parts = [micro_batch_rows(share, step.count, world_size, micro_batch) for share in shares]
        return [[self.samples.index[rows] if len(rows) else DUMMY_SAMPLE.index for rows in part] for part in parts]

    def node_samples(
        self, start: int, global_batch: int, ranks: range, world_size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The samples that the workers `ranks`, which are consecutive, use after `start`: indices (m,) in order of use.

        And for each the end of its step, as in `Step`, (m,).
        """
        shares = list(self._shares(start, global_batch, ranks.start, ranks.stop, world_size))
        rows = np.concatenate([rows for _, _, rows in shares] or [np.zeros(0, np.int64)])
        ends = np.repeat(np.array([end for end, _, _ in shares], np.int64), [len(rows) for _, _, rows in shares])
        return self.samples.index[rows], ends

    def _shares(
        self, start: int, global_batch: int, first_rank: int, last_rank: int, world_size: int
    ) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """For each step its end, its number of images, and the rows that the workers [first_rank, last_rank) use."""
        ends = self.step_ends(global_batch)
        for end in ends[ends > start].tolist():
            count = end - start
            first, last = (count * r // world_size for r in (first_rank, last_rank))
            yield end, count, start + self._order(start, end)[first:last]
            start = end

    def _order(self, start: int, end: int) -> NDArray[np.int64]:
        """The order in which the samples [start, end) are split over the workers, counted from `start`."""
        if self._place is None:
            return np.arange(end - start)
        return np.argsort(self._place[start:end], kind="stable")


def micro_batch_rows(rows: NDArray[np.int64], count: int, world_size: int, micro_batch: int) -> list[NDArray[np.int64]]:
    """A worker's share of a step of `count` images, cut into as many micro-batches as every worker has."""
    largest_share = -(-count // world_size)
    pieces = -(-largest_share // micro_batch)
    return [rows[slice(*cut)] for cut in pairwise(len(rows) * k // pieces for k in range(pieces + 1))]


def evaluation_samples(indices: NDArray[np.int64], scale: int) -> Samples:
    """The samples of an evaluation: these images at smallest side `scale` (Q), centre crop, no flip, no shift."""
    n = len(indices)
    return Samples(
        indices.astype(np.int64),
        np.full(n, scale, np.int32),
        np.full((n, 2), 0.5),
        np.zeros(n, np.bool_),
        np.zeros((n, 3), np.float32),
    )
