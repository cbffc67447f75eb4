"""An analytic model of a training step: computing, bytes, bandwidth, latency, and what of it overlaps.

After the forward pass comes the backward pass, from the last layer to the first; a layer's share of its time is that of its
multiply-accumulates. As soon as the gradients of a bucket are complete it is compressed and all-reduced, one bucket after
the other, while the backward pass goes on. FC groups exchange features in the forward pass and their gradients in the
backward pass; nothing overlaps with that. The optimizer starts after the backward pass and the last all-reduce.

`fit` finds the constants that a measurement does not give by itself. Plain NumPy and SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from vgg_dist.benchmark.scaling.net import Net
from vgg_dist.benchmark.scaling.traffic import Exchange, buckets, feature_bytes, held_parameters, ring_all_reduce

GATHERS = 3  # a group's exchanges of features in the forward pass: inputs of fc6, outputs of fc7, logits
POWERSGD_CALLS = 3  # all-reduces of a bucket: both factors of the matrices, and what is not compressed


@dataclass(frozen=True)
class Constants:
    """What is fitted to measured steps.

    `efficiency`: share of a link's rate that all-reduces reach. `hop_s`: seconds of each hop of a collective. Then seconds
    that computing is held up: for each byte sent, and for each byte of the gradients that is compressed to bf16, or by
    PowerSGD.
    """

    efficiency: float = 0.95
    hop_s: float = 2e-4
    host_s_per_byte: float = 5e-10
    bf16_s_per_byte: float = 5e-10
    powersgd_s_per_byte: float = 2e-9

    def compression(self, exchange: Exchange) -> float:
        """Seconds for each byte of an fp32 gradient."""
        if exchange.rank:
            return self.powersgd_s_per_byte
        return self.bf16_s_per_byte if exchange.gradient_bytes == 2 else 0.0


@dataclass(frozen=True)
class Compute:
    """Seconds of a worker's step without any exchange, with whole FC layers."""

    forward_s: float
    backward_s: float
    optimizer_s: float = 0.0

    @property
    def step_s(self) -> float:
        """All of it."""
        return self.forward_s + self.backward_s + self.optimizer_s


@dataclass(frozen=True)
class Cluster:
    """`workers` in nodes of `per_node`; each node has one link, and its workers exchange with each other faster.

    `link`, `local`: bytes/s each way, of a node's link and of a worker to others of its node. `trees`: all-reduces take a
    ring or a double binary tree, whichever is faster, as NCCL's do since 2.4; without it, always a ring. `gloo`: PowerSGD
    holds the backward pass up until each bucket is averaged.
    """

    workers: int
    link: float
    per_node: int = 1
    local: float = math.inf
    trees: bool = False
    gloo: bool = False


@dataclass(frozen=True)
class Step:
    """Predicted seconds of a step, and how much of them waits for the network."""

    seconds: float
    exposed_s: float


def step(net: Net, exchange: Exchange, compute: Compute, images: float, cluster: Cluster, constants: Constants) -> Step:
    """The step of each worker. `images`: of each worker; `compute`: for as many."""
    if cluster.workers % exchange.group:
        raise ValueError(f"{cluster.workers} workers do not divide into groups of {exchange.group}")
    features = _exchange_features(net, exchange, images, cluster, constants)
    macs = np.array([layer.macs for layer in net.layers], dtype=np.float64)
    layer_s = compute.backward_s * macs / macs.sum()
    now = compute.forward_s + features
    busy_until, previous = 0.0, len(net.layers)
    first_fc = len(net.convolutions)
    for bucket in buckets(net, exchange):
        last = min(bucket.layers)
        now += float(layer_s[last:previous].sum())
        if last <= first_fc < previous:
            now += features
        previous = last
        now += constants.compression(exchange) * bucket.raw
        members = cluster.workers // exchange.group if bucket.sharded else cluster.workers
        start = max(now, busy_until)
        busy_until = start + _all_reduce(bucket.sent, members, bucket.sharded, exchange, cluster, constants)
        now += constants.host_s_per_byte * ring_all_reduce(bucket.sent, members)
        if exchange.rank and cluster.gloo:
            now = busy_until
    optimizer = compute.optimizer_s * held_parameters(net, exchange) / held_parameters(net, Exchange())
    seconds = max(now, busy_until) + optimizer
    return Step(seconds, seconds - compute.step_s)


def _all_reduce(
    count: float, members: int, sharded: bool, exchange: Exchange, cluster: Cluster, constants: Constants
) -> float:
    """Seconds to all-reduce `count` bytes over `members`; of shards, all that a node has go through its link at once."""
    if members == 1:
        return 0.0
    nodes = -(-cluster.workers // cluster.per_node)
    streams = min(exchange.group, cluster.per_node) if sharded else 1
    # Rings pass from node to node once, whatever the number of members in each.
    crossing = streams * ring_all_reduce(count, members) if nodes > 1 else 0.0
    inside = ring_all_reduce(count, members) if cluster.per_node > 1 else 0.0
    carried = max(crossing / (cluster.link * constants.efficiency), inside / cluster.local)
    hop_s = constants.hop_s * (POWERSGD_CALLS if exchange.rank else 1)
    ring = 2 * (members - 1) * hop_s + carried
    if not cluster.trees:
        return ring
    # A double binary tree sends each number up and down: 2 where a ring sends 2 (n-1)/n.
    return min(ring, 2 * math.ceil(math.log2(members)) * hop_s + carried * members / (members - 1))


def _exchange_features(net: Net, exchange: Exchange, images: float, cluster: Cluster, constants: Constants) -> float:
    """Seconds of a group's exchanges in the forward pass; as many in the backward pass."""
    received = feature_bytes(net, exchange, images)
    nodes = -(-exchange.group // cluster.per_node)
    # What a group sends from node to node enters each node once.
    crossing = received * exchange.group / max(1, exchange.group - 1) * (nodes - 1) / nodes
    carried = max(crossing / (cluster.link * constants.efficiency), received / cluster.local)
    hops = exchange.group - 1
    if cluster.trees:
        hops = math.ceil(math.log2(exchange.group))
    return GATHERS * hops * constants.hop_s + carried + constants.host_s_per_byte * received


@dataclass(frozen=True)
class Observation:
    """A measured step of a setting. `seconds`: median."""

    net: Net
    exchange: Exchange
    compute: Compute
    images: float
    cluster: Cluster
    seconds: float

    def predicted(self, constants: Constants) -> float:
        """The model's step, seconds."""
        return step(self.net, self.exchange, self.compute, self.images, self.cluster, constants).seconds

    def error(self, constants: Constants) -> float:
        """(model - measured) / measured."""
        return self.predicted(constants) / self.seconds - 1


UPPER = Constants(1.0, 1e-1, 1e-7, 1e-7, 1e-6)


def fit(observations: Sequence[Observation], start: Constants | None = None) -> Constants:
    """The constants with the least squared relative error. Those that no observation depends on stay as in `start`."""
    start = start or Constants()
    names = [field.name for field in fields(Constants)]
    scale = np.array([getattr(start, name) for name in names])
    upper = np.array([getattr(UPPER, name) for name in names]) / scale

    def constants(scaled: NDArray[np.float64]) -> Constants:
        return replace(start, **dict(zip(names, (scaled * scale).tolist(), strict=True)))

    def residuals(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        found = constants(scaled)
        return np.array([math.log1p(observation.error(found)) for observation in observations])

    lower = np.array([0.05 / start.efficiency, 0.0, 0.0, 0.0, 0.0])
    solution = least_squares(residuals, np.ones(len(names)), bounds=(lower, upper), x_scale=1.0, diff_step=1e-4)
    return constants(solution.x)
