"""DDP sends the FC layers' gradients, most of all bytes, while the convolutions' are still being computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.trainings import SMALL
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from vgg_dist.training.parallelism import wrap
from vgg_dist.training.state import build_state


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of this one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_fc6_is_sent_before_the_first_convolutions_gradient_is_there(alone: None) -> None:
    config = dataclasses.replace(SMALL, head="fc", image_size=64)
    model = build_state(config, 10, torch.device("cpu")).model
    _, [ddp] = wrap(model, config, 2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order: list[str] = []

    def sent(state, bucket):  # type: ignore[no-untyped-def]  # DDP compares the annotations, which are words here
        order.extend(f"sent {names[id(parameter)]}" for parameter in bucket.parameters())
        return default_hooks.allreduce_hook(None, bucket)

    ddp.register_comm_hook(None, sent)
    model.features[0].weight.register_hook(lambda gradient: order.append("conv1_1 computed"))
    for step in range(3):
        order.clear()
        ddp(torch.randn(2, 3, 64, 64)).sum().backward()
        assert set(order) == {f"sent {name}" for name in names.values()} | {"conv1_1 computed"}
        if step:  # the first step is sent in one piece, from which DDP learns the order
            assert order.index("sent classifier.0.weight") < order.index("conv1_1 computed")
