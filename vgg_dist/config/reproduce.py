"""The settings of vgg_dist.reproduce: those of a training, and which of the paper's runs and tables to reproduce."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pipelines.paths import join
from vgg_dist.config.base import check_name
from vgg_dist.config.bounds import MoreThan, check_bounds
from vgg_dist.config.scale_range import OptionalScaleFlag, ScaleRange
from vgg_dist.config.train import TrainConfig, TrainSettings
from vgg_dist.config.train_flags import TrainFlags
from vgg_dist.config.tune import PAPER_SCALES
from vgg_dist.models.specs import MODELS

PaperArch = Literal["A", "A-LRN", "B", "C", "D", "E"]


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(TrainFlags):
    """Run the paper's trainings, each started from the net before it, and the evaluations for its tables.

    The flags of vgg_dist.train apply to every run, except --arch, --train-scale and --init-from, which each run sets.
    """

    arch: tyro.conf.Suppress[PaperArch] = "A"
    train_scale: tyro.conf.Suppress[OptionalScaleFlag] = None
    init_from: tyro.conf.Suppress[str | None] = None

    dry_run: bool = False
    """Print the runs with their images, epochs and estimated hours, from training steps measured here, and run nothing."""
    only: tuple[PaperArch, ...] = ()
    """Train only these nets, and those that they start from."""
    through: Literal["table3", "table4", "table5", "table6"] = "table6"
    """Last table of the paper to reproduce: table3 (one test scale), table4 (several), table5 (multi-crop evaluation), or
    table6 (fused nets)."""
    scales: tuple[str, str, str] | None = None
    """The two fixed train scales and the range. Default: 256 384 256-512, times image size / 224."""
    from_shallow: bool = True
    """Start B to E from the layers of A, as the paper does; otherwise they start as --init says."""
    epochs_scale: Annotated[float, MoreThan(0)] = 1.0
    """Factor for --epochs of every run; the result is rounded up."""

    def resolved(self) -> ReproduceConfig:
        """With absolute paths and the default scales. ValueError, one line that names the flag, for a value not allowed."""
        check_bounds(self)
        config = dataclasses.replace(
            self,
            scales=self.three_scales(),
            epochs=math.ceil(self.epochs * self.epochs_scale),
            epochs_scale=1.0,
            name="reproduction" if self.name is None else self.name,
            **self.located(),
        )
        check_name(str(config.name), config.storage_path)
        return config

    def three_scales(self) -> tuple[str, str, str]:
        """The two fixed train scales and the range. ValueError, one line, for a word in --scales that is no scale."""
        for word in self.scales or ():
            ScaleRange.parse(word, "--scales")
        size = (self.image_size or MODELS["A"].image_size) / 224
        first, second, jittered = (str(scale.scaled(size)) for scale in PAPER_SCALES)
        return self.scales or (first, second, jittered)

    def run(self, arch: PaperArch, scale: str, init_from: str | None, lr: float) -> TrainSettings:
        """The resolved settings of one of the runs. ValueError, one line that names the flag, for a value not allowed."""
        settings = self.training_fields()
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
