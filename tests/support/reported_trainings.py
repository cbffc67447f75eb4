"""Small trainings with a worker's reports and checkpoints, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vgg_dist.config import TrainConfig
from vgg_dist.run_folder.best import keep_best
from vgg_dist.run_folder.checkpoints import write_checkpoint
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.stopping import StopAgreement
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.process import train
from vgg_dist.worker.reporter import Reporter
from vgg_dist.worker.setup import Node, prepare

SMALL = TrainConfig(
    arch="lenet5",
    data="synthetic:train=40,val=10,size=40",
    global_batch=8,
    micro_batch=8,
    lr=0.001,
    max_steps=7,
    checkpoint_every=2,
    log_every=1,
    precision="fp32",
    loader_threads=1,
).resolved()


Weights = dict[str, torch.Tensor]


def nothing(step: int) -> None:
    pass


class Training(Reporter):
    """A training of one worker, whose reports and checkpoints come here. `events`: what happened, in order.

    `while_writing` is called in the writer's thread, before anything of a step's checkpoint is written; `trained` after a
    step and its report.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig = SMALL,
        saved: Path | None = None,
        while_writing: Callable[[int], None] = nothing,
        trained: Callable[[int], None] = nothing,
        stop: StopAgreement | None = None,
        report_every_s: float = 5.0,
    ) -> None:
        self.folder, self.while_writing, self.trained = folder, while_writing, trained
        self.events: list[str] = []
        self.payloads: list[dict[str, Any]] = []
        self.states: dict[int, Weights] = {}
        exchange = Exchange()
        restored = None if saved is None else lambda: contextlib.nullcontext(saved)
        prepared = prepare(config, Worker(), Node(), exchange, restored)
        super().__init__(Worker(), Node(), exchange, prepared, self.take, self.write, report_every_s)
        self.outcome = train(prepared, Worker(), self, stop)

    def catch_up(self) -> None:
        self.begin()
        super().catch_up()

    def begin(self) -> None:
        """For what a test changes once all is set up."""

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The records of all reports."""
        return [record for payload in self.payloads for record in payload["records"]]

    def take(self, payload: dict[str, Any], checkpoint: str | None) -> None:
        self.payloads.append(payload)
        self.events += [f"{checkpoint} reported"] if checkpoint else []
        self.events += ["done"] if payload["done"] else []

    def write(self, name: str, write: Callable[[Path], None]) -> str:
        step = int(name.rpartition("-")[2])
        self.while_writing(step)
        run = RunFolder(str(self.folder))
        keep_best(run, write_checkpoint(run, name, write))
        self.events.append(f"{step} written")
        return str(step)

    def __call__(self, metrics: dict[str, float], save: bool) -> None:
        super().__call__(metrics, save)
        step = self.prepared.state.step
        self.states[step] = {key: value.clone() for key, value in self.prepared.state.model.state_dict().items()}
        self.events.append(f"{step} trained")
        self.trained(step)


def checkpoint(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:09}"


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def steps(records: list[dict[str, Any]]) -> list[int]:
    return [record["step"] for record in records if "train/loss" in record["metrics"]]
