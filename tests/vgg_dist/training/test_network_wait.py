"""How long workers wait for each other, and who is the slowest."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.trainings import SMALL, Run
from torch import Tensor

from pipelines.loading.loader import Batch
from vgg_dist.training.network_wait import NetworkWait
from vgg_dist.training.objective import CrossEntropy
from vgg_dist.training.parallelism import Worker

DELAY = 0.4  # seconds that the last worker takes longer for each step


class Slow(CrossEntropy):
    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        time.sleep(DELAY if outputs.requires_grad else 0)
        return super().loss_sum(outputs, batch)


def _train(rank: int, world: int, fc_workers: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    head = "fc" if fc_workers > 1 else "linear"
    config = dataclasses.replace(SMALL, arch="A", head=head, max_steps=3, global_batch=8, log_every="3")
    run = Run(config, Worker(rank, world, fc_workers=fc_workers), objective=Slow() if rank == world - 1 else None).run()
    if rank == 0:
        torch.save(run.reports, f"{folder}/reports.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("fc_workers", [1, 2])
def test_the_slowest_worker_is_the_one_that_the_others_wait_for(tmp_path: Path, fc_workers: int) -> None:
    mp.spawn(_train, (2, fc_workers, str(tmp_path)), nprocs=2)
    (metrics,) = [m for _, m in torch.load(tmp_path / "reports.pt") if "train/loss" in m]
    assert metrics["slowest_worker"] == 1
    other = 2 * metrics["step_seconds/median"] - metrics["step_seconds/slowest"]
    assert metrics["step_seconds/slowest"] > other + DELAY / 2
    seconds_per_step = 8 / metrics["images_per_second"]
    assert metrics["network_wait_share"] * 2 * seconds_per_step > DELAY / 2
    both = metrics["step_seconds/slowest"] + other
    assert both + metrics["network_wait_share"] * 2 * seconds_per_step == pytest.approx(2 * seconds_per_step)


class Event:
    """As on a CUDA stream, which reaches one event each second."""

    reached = 0.0

    def record(self) -> None:
        Event.reached += 1
        self.at = Event.reached

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.at - self.at)


def test_on_a_gpu_the_time_between_events_counts() -> None:
    made: list[Any] = []
    wait = NetworkWait(torch.device("cuda"), lambda: made.append(Event()) or made[-1])  # type: ignore[func-returns-value]
    with wait.waiting():
        Event.reached += 4
    wait.end()  # nothing has begun
    wait.begin()
    Event.reached += 6
    wait.end()
    assert wait.take() == 5 + 7
    assert wait.take() == 0
    assert len(made) == 4
