"""The settings of vgg_dist.reproduce: those of a training, and which part of the paper's programme is wanted."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import tyro

from pipelines.paths import absolute, join
from vgg_dist.config.base import at_least, check_name, data_location, quarantine_list
from vgg_dist.config.scale_range import OptionalScaleFlag, ScaleRange
from vgg_dist.config.train import TrainConfig
from vgg_dist.config.tune import PAPER_SCALES
from vgg_dist.models.specs import MODELS

PaperArch = Literal["A", "A-LRN", "B", "C", "D", "E"]


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(TrainConfig):
    """Run the paper's programme: its networks, trained one from another, and every evaluation of its tables.

    What vgg_dist.train takes holds for every run; --arch, --train-scale and --init-from follow from the programme.
    """

    arch: tyro.conf.Suppress[PaperArch] = "A"
    train_scale: tyro.conf.Suppress[OptionalScaleFlag] = None
    init_from: tyro.conf.Suppress[str | None] = None

    plan: bool = False
    """Print the runs with their images, epochs and estimated hours, from steps that are measured now, and run nothing."""
    only: tuple[PaperArch, ...] = ()
    """Only these configurations, and those that they start from."""
    upto: Literal["table3", "table4", "table5", "table6"] = "table6"
    """The last table that is wanted: one test scale, several, multi-crop too, nets fused."""
    scales: tuple[str, str, str] | None = None
    """The two fixed train scales and the jittered one. Default: 256 384 256-512, as image size / 224."""
    from_shallow: bool = True
    """B to E begin with the layers of A, as in the paper; otherwise as --init says."""
    epochs_scale: float = 1.0
    """Multiplies --epochs of every run, rounded up."""

    def resolved(self) -> ReproduceConfig:
        """With absolute paths and the default scales. ValueError, one line that names the flag, for what cannot be."""
        size = (self.image_size or MODELS["A"].image_size) / 224
        first, second, jittered = (str(scale.scaled(size)) for scale in PAPER_SCALES)
        scales = self.scales or (first, second, jittered)
        if not self.epochs_scale > 0:
            raise ValueError(f"--epochs-scale {self.epochs_scale}: must be more than 0")
        at_least("epochs", self.epochs, 1)
        config = dataclasses.replace(
            self,
            scales=scales,
            epochs=math.ceil(self.epochs * self.epochs_scale),
            epochs_scale=1.0,
            name="reproduction" if self.name is None else self.name,
            storage_path=absolute(self.storage_path),
            data=data_location(self.data),
            quarantine=quarantine_list(self.data, self.quarantine),
        )
        check_name(config.name or "", config.storage_path)
        for word in scales:
            ScaleRange.parse(word, "--scales")
        return config

    @property
    def folder(self) -> str:
        """Where the programme keeps its runs and its evaluation."""
        return join(self.storage_path, self.name or "")

    def run(self, arch: PaperArch, scale: str, init_from: str | None, lr: float) -> TrainConfig:
        """A run of the programme, resolved, in its folder. ValueError, one line that names the flag."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)}
        settings |= {
            "arch": arch,
            "train_scale": ScaleRange.parse(scale, "--scales"),
            "init_from": None if init_from is None else join(self.folder, init_from),
            "lr": lr,
            "name": f"{arch}-{scale}",
            "storage_path": self.folder,
        }
        if arch == "A-LRN":  # has no batch-norm twin
            settings["batch_norm"] = False
        try:
            return TrainConfig(**settings).resolved()
        except ValueError as error:
            raise ValueError(str(error).replace("--train-scale", "--scales", 1)) from None
