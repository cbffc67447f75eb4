"""PowerSGD on gloo, with several buckets under way: all workers end each step, with the same gradients."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.trainings import SMALL
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vgg_dist.training.parallelism import compress

WORLD = 2
LAYERS = 6
WIDTH = 400
COMPRESSED_FROM = 2  # steps with whole gradients, the fewest that torch allows


def _step_with_many_buckets(rank: int, folder: str, bf16: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    ddp = DistributedDataParallel(net, bucket_cap_mb=0.5, gradient_as_bucket_view=True)  # a bucket for each layer
    with mock.patch("vgg_dist.training.parallelism.POWERSGD_START", COMPRESSED_FROM):
        compress(ddp, dataclasses.replace(SMALL, powersgd_rank=2, bf16_gradients=bf16), None)
    torch.manual_seed(rank)
    for step in range(COMPRESSED_FROM + 4):
        ddp(torch.randn(4, WIDTH)).square().sum().backward()
        for layer in net:
            same = [torch.empty_like(layer.weight.grad) for _ in range(WORLD)]
            dist.all_gather(same, layer.weight.grad.contiguous())
            assert torch.equal(*same)
            rank_of_gradient = int(torch.linalg.matrix_rank(same[0], rtol=1e-2))
            assert (rank_of_gradient <= 2) is (step >= COMPRESSED_FROM)
        ddp.zero_grad(set_to_none=False)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_every_bucket_is_averaged(bf16: bool, tmp_path: Path) -> None:
    mp.spawn(_step_with_many_buckets, (str(tmp_path), bf16), nprocs=WORLD)
