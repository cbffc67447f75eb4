"""The bytes that the layouts of a training exchange, by formula.

W workers, FC groups of N workers, I images per group and step, s bytes a feature, F inputs of fc6, C classes, g bytes a
gradient. A ring all-reduce of P numbers: each worker sends 2 (W-1)/W P g. FC-sharded: each worker receives
(N-1)/N I s (F + 4096 + C) in the forward pass and as much in the backward pass, and its shard of the FC gradients is
all-reduced over the W/N groups. PowerSGD (Vogels et al., 2019, arXiv:1905.13727) of rank r sends (n + m) r numbers for the
gradient of an n x m matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vgg_dist.benchmark.scaling.layouts import DDP_BUCKET_MB
from vgg_dist.benchmark.scaling.net import Layer, Net
from vgg_dist.training.layout import ring

FP32 = 4
FIRST_BUCKET = 1 << 20  # bytes at which DDP closes its first bucket, if their size is the default
MIN_COMPRESSION = 2  # PowerSGD leaves matrices whose gradient would not shrink by this factor as they are


@dataclass(frozen=True)
class Exchange:
    """What a layout sends.

    `gradient_bytes`: of each number in a gradient. `rank`: PowerSGD's, 0 without it. `group`: workers that share the FC
    layers, 1 if each has all of them. `feature_bytes`: of each number in the features that a group exchanges.
    `bucket_mb`: MiB at which DDP closes a bucket.
    """

    gradient_bytes: int = FP32
    rank: int = 0
    group: int = 1
    feature_bytes: int = FP32
    bucket_mb: int = DDP_BUCKET_MB

    def gradient(self, layer: Layer, is_fc6: bool = False) -> float:
        """Bytes of a layer's gradient as it is all-reduced, in one worker: of an FC layer, those of its shard.

        fc6 is cut by its outputs, the layers after it by their inputs.
        """
        shard = self.group if layer.is_fc else 1
        if not self.rank:
            return layer.parameters * self.gradient_bytes / shard
        rows, columns = (layer.rows / shard, layer.columns) if is_fc6 else (layer.rows, layer.columns / shard)
        compressed = (rows + columns) * self.rank
        weight = compressed if compressed * MIN_COMPRESSION < rows * columns else rows * columns
        return (weight + layer.rows / shard) * FP32


def exchange_of(layout: Mapping[str, Any], feature_bytes: int = FP32, bucket_mb: int = DDP_BUCKET_MB) -> Exchange:
    """What is sent with these fields of TrainConfig."""
    return Exchange(
        gradient_bytes=2 if layout.get("bf16_gradients") else FP32,
        rank=layout.get("powersgd_rank", 0),
        group=int(layout.get("fc_parallel", 1)),
        feature_bytes=feature_bytes,
        bucket_mb=bucket_mb,
    )


@dataclass(frozen=True)
class Bucket:
    """Gradients that are all-reduced together: their layers by position in the net, whether they are shards, and bytes.

    `raw`: bytes of the gradients as they were computed, fp32. `sent`: as they are all-reduced.
    """

    layers: tuple[int, ...]
    sharded: bool
    raw: float
    sent: float


def buckets(net: Net, exchange: Exchange) -> Iterator[Bucket]:
    """The buckets in the order in which DDP sends them: from the last layer to the first.

    Shards of FC layers have a DDP of their own, because they are all-reduced over other workers.
    """
    reverse = range(len(net.layers) - 1, -1, -1)
    if exchange.group == 1:
        yield from _buckets_of_ddp(net, exchange, reverse, sharded=False)
        return
    yield from _buckets_of_ddp(net, exchange, reverse[: len(net.fc)], sharded=True)
    yield from _buckets_of_ddp(net, exchange, reverse[len(net.fc) :], sharded=False)


def _buckets_of_ddp(net: Net, exchange: Exchange, positions: Sequence[int], sharded: bool) -> Iterator[Bucket]:
    members: list[int] = []
    bucket = exchange.bucket_mb * 2**20
    limit, size = FIRST_BUCKET if exchange.bucket_mb == DDP_BUCKET_MB else bucket, 0.0
    for position in positions:
        members.append(position)
        size += net.layers[position].parameters * FP32 / (exchange.group if sharded else 1)
        if size >= limit or position == positions[-1]:
            sent = sum(exchange.gradient(net.layers[k], k == len(net.convolutions)) for k in members)
            yield Bucket(tuple(members), sharded, size, sent)
            members, limit, size = [], bucket, 0.0


def ring_all_reduce(count: float, members: int) -> float:
    """Bytes that each of `members` sends when `count` bytes are all-reduced on a ring."""
    return 2 * ring(count, members)


def feature_bytes(net: Net, exchange: Exchange, images: float) -> float:
    """Bytes that each worker receives from its group in the forward pass; as many in the backward pass.

    `images`: of each worker in a step.
    """
    return ring(exchange.group * images * exchange.feature_bytes * net.exchanged_features, exchange.group)


def sent_bytes(net: Net, exchange: Exchange, workers: int, images: float) -> float:
    """Bytes that each worker sends in a step, and receives. `images`: of each worker in a step."""
    gradients = _all_reduced(buckets(net, exchange), exchange, workers)
    return gradients + 2 * feature_bytes(net, exchange, images)


def _all_reduced(every: Iterable[Bucket], exchange: Exchange, workers: int) -> float:
    members = {False: workers, True: workers // exchange.group}
    return sum(ring_all_reduce(bucket.sent, members[bucket.sharded]) for bucket in every)


def held_parameters(net: Net, exchange: Exchange) -> float:
    """The parameters that each worker has."""
    return sum(layer.parameters / (exchange.group if layer.is_fc else 1) for layer in net.layers)


def state_bytes(net: Net, exchange: Exchange, workers: int) -> float:
    """Bytes of parameters, gradients and momentum in each worker; with PowerSGD also the errors that it keeps.

    These are as large as the gradients that are all-reduced: not those of FC shards if there is only one group.
    """
    errors = 0.0
    if exchange.rank:
        errors = sum(bucket.raw for bucket in buckets(net, exchange) if not bucket.sharded or exchange.group < workers)
    return held_parameters(net, exchange) * FP32 * 3 + errors
