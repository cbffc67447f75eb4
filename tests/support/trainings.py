"""Small trainings in this process, whatever they are stopped by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipelines.loading.open import open_loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.stores.open import open_splits
from vgg_dist.config import TrainConfig
from vgg_dist.models.specs import MODELS
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import build_state
from vgg_dist.training.trainer import Trainer

SMALL = TrainConfig(
    arch="A",
    head="linear",
    image_size=32,
    data="synthetic:train=40,val=25,size=40",
    global_batch=16,
    micro_batch=16,
    epochs=2,
    log_every="1",
    precision="fp32",
    lr=0.002,
).resolved()


class Run:
    """A trainer with its reports."""

    def __init__(
        self, config: TrainConfig, worker: Worker, restore: Path | None = None, save_at: Any = None, objective: Any = None
    ) -> None:
        self.train, self.val = open_splits(config.data)
        self.classes = self.train.class_names
        self.state = build_state(config, len(self.classes), worker.device)
        if restore is not None:
            self.state.restore(restore, config, self.classes)
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.save_at: tuple[int, Path] = save_at or (-1, Path())
        self.config, self.worker = config, worker
        spec = MODELS[config.arch]

        def loader(store: Any, center: bool) -> Any:
            preprocessing = Preprocessing(32, spec.pixel_mean, spec.pixel_std, center)
            return open_loader(
                store,
                preprocessing,
                num_threads=1,
                max_batch=config.micro_batch,
                device=worker.device,
                deterministic=config.deterministic,
            )

        loaders = loader(self.train, False), loader(self.val, True)
        self.trainer = Trainer(config, self.state, *loaders, worker, self.report, objective=objective)

    def report(self, metrics: dict[str, float], save: bool) -> None:
        self.reports.append((self.state.step, metrics))
        step, folder = self.save_at
        if save and self.state.step == step and self.worker.rank == 0:
            self.state.save(folder, self.config, self.classes)

    def run(self) -> Run:
        self.trainer.run()
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return {key: value.cpu().clone() for key, value in self.state.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
