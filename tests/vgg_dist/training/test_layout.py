"""The bytes of each layout, against worked numbers and against rings that are simulated message by message."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
import torch

from vgg_dist.config import TrainConfig, TrainSettings
from vgg_dist.models.build import build_model
from vgg_dist.training.layout import NetSize, choose_group, group_sizes, net_size, traffic
from vgg_dist.training.parallelism import Worker


def settings(**fields: object) -> TrainSettings:
    return dataclasses.replace(TrainConfig(arch="E", name="x", precision="fp32"), **fields).resolved()


def test_the_size_of_e_is_the_papers() -> None:
    size = net_size(settings(), 1000)
    assert size.convolutions + size.fc == 143_667_240
    assert size.fc == 123_642_856
    assert size.features == 512 * 7 * 7 + 4096 + 1000


def rings(amount: float, ranks: list[int], twice: bool) -> Counter[tuple[int, int]]:
    """Bytes from rank to rank when `amount` is gathered, or summed and split, over a ring; `twice`: all-reduced."""
    sent: Counter[tuple[int, int]] = Counter()
    for _ in range((len(ranks) - 1) * (2 if twice else 1)):  # in each round each worker passes on one part
        for sender, receiver in zip(ranks, ranks[1:] + ranks[:1], strict=True):
            sent[sender, receiver] += amount / len(ranks)  # type: ignore[assignment]
    return sent


@pytest.mark.parametrize(("world", "per_node"), [(4, 1), (4, 2), (8, 4), (16, 4), (8, 8)])
def test_bytes_are_those_of_rings_that_pass_each_part_on(world: int, per_node: int) -> None:
    size, images = NetSize(convolutions=1200, fc=4800, features=90), 64
    for group in (1, 2, 4, 8):
        if group > world or world % group:
            continue
        sent = rings(size.convolutions * 4, list(range(world)), twice=True)
        for part in range(group):
            sent += rings(size.fc / group * 4, list(range(part, world, group)), twice=True)
        for first in range(0, world, group):
            for _ in ("forward", "backward"):
                members = list(range(first, first + group))
                sent += rings(images / (world // group) * size.features * 2, members, twice=False)
        found = traffic(size, images, world, per_node, group, 2, 4)
        of_worker = {rank: sum(amount for (sender, _), amount in sent.items() if sender == rank) for rank in range(world)}
        assert found.of_worker == pytest.approx(of_worker[0])
        nodes = {rank: rank // per_node for rank in range(world)}
        of_node = sum(amount for (a, b), amount in sent.items() if nodes[a] == 0 and nodes[b] != 0)
        assert found.of_node == pytest.approx(of_node)


def test_auto_takes_the_group_with_the_fewest_bytes() -> None:
    for world, per_node, batch in itertools.product((2, 8, 64), (1, 8), (256, 4096, 65536)):
        config = settings(fc_parallel="auto", global_batch=batch)
        group, line = choose_group(config, 1000, Worker(world_size=world, local_world_size=min(per_node, world)))
        found = {
            size: traffic(net_size(config, 1000), batch, world, min(per_node, world), size, 4, 4)
            for size in group_sizes(config, world)
        }
        several_nodes = world > per_node
        best = min(found, key=lambda size: found[size].of_node if several_nodes else found[size].of_worker)
        assert group == best
        assert line.startswith("--fc-parallel auto: " + ("off; " if group == 1 else f"{world // group} group"))


def test_auto_says_what_it_takes_and_what_that_saves() -> None:
    config = settings(fc_parallel="auto", bf16_gradients=True)
    assert choose_group(config, 1000, Worker(world_size=8)) == (
        8,
        "--fc-parallel auto: 1 group of 8 workers; each node sends 124 MB a step, 503 MB with off",
    )
    assert choose_group(config, 1000, Worker()) == (1, "")
    assert choose_group(settings(), 1000, Worker(world_size=8)) == (1, "")
    assert choose_group(settings(fc_parallel="2"), 1000, Worker(world_size=8, local_world_size=8)) == (
        2,
        "--fc-parallel 2: 4 groups of 2 workers; each worker sends 519 MB a step, 1,006 MB with off",
    )


@pytest.mark.parametrize("arch", ["A", "lenet5", "alexnet"])
def test_the_widths_that_groups_must_divide_are_those_of_the_nets(arch: str) -> None:
    from vgg_dist.models.specs import MODELS

    with torch.device("meta"):
        linears = [layer for layer in build_model(arch).classifier.children() if isinstance(layer, torch.nn.Linear)]
    assert MODELS[arch].fc_widths == tuple(layer.out_features for layer in linears[:2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fc_parallel": "some"}, "--fc-parallel some: must be off, auto, or the number of workers in a group"),
        ({"fc_parallel": "0"}, "--fc-parallel 0: must be off, auto, or the number of workers in a group"),
        ({"fc_parallel": "3"}, "--fc-parallel 3: must divide the 4096 outputs of the FC layers of E"),
        (
            {"fc_parallel": "7", "arch": "lenet5"},
            "--fc-parallel 7: must divide the 84 and 120 outputs of the FC layers of lenet5",
        ),
        ({"fc_parallel": "4", "num_workers": 6}, "--fc-parallel 4: must divide --num-workers 6"),
        ({"fc_parallel": "4", "head": "gap"}, "--fc-parallel 4: --head gap has no hidden FC layers; allowed: off"),
        (
            {"fc_parallel": "auto", "head": "linear"},
            "--fc-parallel auto: --head linear has no hidden FC layers; allowed: off",
        ),
        ({"powersgd_rank": -1}, "--powersgd-rank -1: must be at least 0"),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_line(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        settings(**fields)
    if "num_workers" in fields:
        with pytest.raises(ValueError, match="must divide --num-workers 6"):
            settings(**fields | {"num_workers": None}).with_workers(6)
