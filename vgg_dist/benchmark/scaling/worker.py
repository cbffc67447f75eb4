"""One worker process of `benchmark scaling`: trains on a batch of noise, and measures its steps, its bytes and its memory.

`python -m vgg_dist.benchmark.scaling.worker RANK WORLD_SIZE ADDRESS:PORT LINK THREADS` joins a gloo group and reads jobs, a
line of JSON each (see `Job`). After a job's warm-up it writes a line and waits for one, so that the links can be limited
for the timed steps only. Then it answers with a line of JSON, a `Measured`. It ends at the end of its input.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vgg_dist.benchmark.scaling.layouts import DDP_BUCKET_MB, train_config
from vgg_dist.benchmark.step import NUM_CLASSES, ResidentLoader
from vgg_dist.models.specs import MODELS
from vgg_dist.training import parallelism
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import TrainState, build_state
from vgg_dist.training.stopping import StopAgreement
from vgg_dist.training.trainer import Trainer

CPU = torch.device("cpu")
POWERSGD_START = 2  # steps with whole gradients: the fewest that torch allows, because they take long on slow links


@dataclass(frozen=True)
class Job:
    """Steps to measure. `layout`: fields of TrainConfig. `images`: those of this worker in a step.

    `alone`: train without the other workers, which do the same at the same time.
    """

    arch: Any
    image_size: int
    images: int
    layout: dict[str, Any]
    alone: bool
    warmup: int
    steps: int
    bucket_mb: int = DDP_BUCKET_MB


@dataclass(frozen=True)
class Measured:
    """What one worker measured.

    Per timed step: seconds of the step, of its forward pass and of its optimizer; bytes that the link sent and received.
    `state_bytes`: parameters, gradients, momentum and all other tensors that live between two steps, without the batch.
    """

    step_s: list[float]
    forward_s: list[float]
    optimizer_s: list[float]
    sent: list[int]
    received: list[int]
    state_bytes: int


class Finished(Exception):
    """Enough steps are measured."""


class StepClock(StopAgreement):
    """Reads clock and byte counters where each step begins. Passed to the trainer, which calls `begin` there."""

    def __init__(self, job: Job, link: str, state: TrainState, batch: Tensor, warmed_up: Callable[[], None]) -> None:
        super().__init__()
        self.warmed_up = warmed_up
        self.job = job
        self.link = link
        self.batch = batch
        self.starts: list[tuple[float, int, int]] = []
        self.forward: list[float] = []
        self.optimizer: list[float] = []
        self.state_bytes = 0
        self._started = 0.0
        # The net that DDP wraps calls these hooks too.
        state.model.register_forward_pre_hook(lambda *_: self._start())
        state.model.register_forward_hook(lambda *_: self.forward.append(self._elapsed()))
        state.optimizer.register_step_pre_hook(lambda *_: self._start())
        state.optimizer.register_step_post_hook(lambda *_: self.optimizer.append(self._elapsed()))

    def begin(self) -> None:
        """Called by the trainer before each step."""
        if len(self.starts) == self.job.warmup:
            self.warmed_up()
        self.starts.append((time.perf_counter(), *link_bytes(self.link)))
        if len(self.starts) > self.job.warmup + self.job.steps:
            self.state_bytes = state_bytes(self.batch)
            raise Finished

    def _start(self) -> None:
        self._started = time.perf_counter()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def measured(self) -> Measured:
        """The timed steps."""
        steps = list(zip(self.starts[self.job.warmup :], self.starts[self.job.warmup + 1 :], strict=False))
        difference = [[after[field] - before[field] for before, after in steps] for field in range(3)]
        return Measured(
            step_s=difference[0],
            forward_s=self.forward[self.job.warmup :],
            optimizer_s=self.optimizer[self.job.warmup :],
            sent=[int(count) for count in difference[1]],
            received=[int(count) for count in difference[2]],
            state_bytes=self.state_bytes,
        )


def link_bytes(link: str) -> tuple[int, int]:
    """The bytes that an interface of this network namespace has sent and received."""
    sent, received = (Path(f"/sys/class/net/{link}/statistics/{way}_bytes").read_text() for way in ("tx", "rx"))
    return int(sent), int(received)


def state_bytes(batch: Tensor) -> int:
    """Bytes of all tensors of this process except the batch. Those that share memory, as DDP's buckets, count once."""
    gc.collect()
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if isinstance(found, Tensor) and not isinstance(found, nn.parameter.UninitializedParameter):
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    storages.pop(batch.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def measure(job: Job, rank: int, world_size: int, link: str, warmed_up: Callable[[], None]) -> Measured:
    """Trains `warmup + steps` steps, calls `warmed_up` between them, and returns what the timed ones cost."""
    parallelism.BUCKET_MB = None if job.bucket_mb == DDP_BUCKET_MB else job.bucket_mb
    group = int(job.layout.get("fc_parallel", 1))
    worker = Worker(device=CPU) if job.alone else Worker(rank, world_size, CPU, fc_workers=group)
    config = train_config(job.arch, job.image_size, job.images * worker.world_size, job.layout)
    settings = config.resolved().with_workers(worker.world_size).with_micro_batch(job.images)
    torch.manual_seed(rank)
    shape = job.images, MODELS[job.arch].in_channels, job.image_size, job.image_size
    images = (64 * torch.randn(shape)).contiguous(memory_format=torch.channels_last)  # which the loaders share
    labels = torch.randint(NUM_CLASSES, (job.images,))
    state = build_state(settings, NUM_CLASSES, CPU)
    # One step more than is used, so that the epoch does not end.
    loader = ResidentLoader(images, labels, settings.global_batch * (job.warmup + job.steps + 1))
    clock = StepClock(job, link, state, images, warmed_up)
    trainer = Trainer(settings, state, loader, ResidentLoader(images, labels, 10), worker, _ignore, clock)
    try:
        trainer.run()
    except Finished:
        return clock.measured()
    raise RuntimeError("the epoch ended before enough steps were measured")


def _ignore(metrics: dict[str, float], save: bool) -> None:
    """The trainer's report callback."""


def main(rank: str, world_size: str, rendezvous: str, link: str, threads: str) -> None:
    """Answers jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints must not come between the answers
    torch.set_num_threads(int(threads))
    os.environ["GLOO_SOCKET_IFNAME"] = link
    parallelism.POWERSGD_START = POWERSGD_START
    dist.init_process_group("gloo", init_method=f"tcp://{rendezvous}", rank=int(rank), world_size=int(world_size))

    def warmed_up() -> None:
        print("warm", file=answers, flush=True)
        sys.stdin.readline()

    while line := sys.stdin.readline():
        measured = measure(Job(**json.loads(line)), int(rank), int(world_size), link, warmed_up)
        gc.collect()
        print(json.dumps(asdict(measured)), file=answers, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
