"""The settings of vgg_dist.reproduce: those of a training, and which study to run: the paper's tables, or a smaller one."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from pipelines.paths import join
from vgg_dist.config.base import check_name
from vgg_dist.config.bounds import AtLeast, MoreThan, check_bounds
from vgg_dist.config.names import flag
from vgg_dist.config.presets import Preset
from vgg_dist.config.scale_range import OptionalScaleFlag, ScaleRange
from vgg_dist.config.train import TrainConfig, TrainSettings
from vgg_dist.config.train_flags import Arch, TrainFlags
from vgg_dist.config.tune import PAPER_SCALES
from vgg_dist.config.worker_range import fixed_workers
from vgg_dist.models.specs import MODELS

Study = Literal["paper", "small", "ablations"]

STUDY_ARCHS: dict[Study, tuple[Arch, ...]] = {
    "paper": ("A", "A-LRN", "B", "C", "D", "E"),
    "small": ("lenet5", "alexnet", "zfnet", "A", "B", "C", "D", "E"),
    "ablations": ("A", "A-LRN", "B", "B-5x5", "C", "D"),
}
"""The nets of each study."""

SEEDS: dict[Study, int] = {"small": 1, "ablations": 3}
"""Trainings of each net, by default."""

NAMES: dict[Study, str] = {"paper": "reproduction", "small": "study-small", "ablations": "study-ablations"}
"""The default of --name."""

OF_THE_PAPER = "through", "scales", "from_shallow"
"""Flags of the paper's runs and tables, which the other studies do not have."""


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(TrainFlags):
    """Run the paper's trainings, each started from the net before it, and the evaluations for its tables; or a study.

    The flags of vgg_dist.train apply to every run, except --arch, --train-scale and --init-from, which each run sets.
    """

    arch: tyro.conf.Suppress[Arch] = "A"
    train_scale: tyro.conf.Suppress[OptionalScaleFlag] = None
    init_from: tyro.conf.Suppress[str | None] = None

    dry_run: bool = False
    """Print the runs with their images, epochs and estimated hours, from training steps measured here, and run nothing."""
    study: Study = "paper"
    """What is trained and reported. paper: the paper's trainings, and its Tables 3 to 6. small: LeNet-5, AlexNet, ZFNet,
    and A to E with and without batch norm, all with one budget. ablations: the paper's comparisons of two nets, over
    several seeds."""
    preset: Preset = "paper"
    """Defaults of other flags. paper: those listed here, for photographs. tiny: for images of 64 pixels, such as Tiny
    ImageNet's: image size 32, and so scales 37 55 37-73, half the channels, one linear layer, and a shorter schedule in
    batches of 64."""
    seeds: Annotated[int | None, AtLeast(1)] = None
    """Trainings of each net, with the seeds --seed, --seed + 1, ...; not for --study paper. Default: 3 for ablations, 1 for
    small."""
    only: tuple[Arch, ...] = ()
    """Train only these nets, and those that they start from."""
    through: Literal["table3", "table4", "table5", "table6"] = "table6"
    """Last table that --study paper reproduces: table3 (one test scale), table4 (several), table5 (multi-crop evaluation),
    or table6 (fused nets)."""
    scales: tuple[str, str, str] | None = None
    """The two fixed train scales and the range of --study paper. Default: 256 384 256-512, times image size / 224."""
    from_shallow: bool = True
    """With --study paper, start B to E from the layers of A, as the paper does; otherwise they start as --init says."""
    epochs_scale: Annotated[float, MoreThan(0)] = 1.0
    """Factor for --epochs of every run; the result is rounded up."""

    def resolved(self) -> ReproduceConfig:
        """With absolute paths and the default scales. ValueError, one line that names the flag, for a value not allowed."""
        check_bounds(self)
        fixed_workers(self.num_workers)
        self._check_study()
        config = dataclasses.replace(
            self,
            scales=self.three_scales() if self.study == "paper" else None,
            seeds=self.seeds or SEEDS.get(self.study),
            epochs=math.ceil(self.epochs * self.epochs_scale),
            epochs_scale=1.0,
            name=NAMES[self.study] if self.name is None else self.name,
            **self.located(),
        )
        check_name(str(config.name), config.storage_path)
        return config

    def _check_study(self) -> None:
        """ValueError, one line that names the flag, for a net or a flag that the study does not have."""
        allowed = STUDY_ARCHS[self.study]
        for arch in self.only:
            if arch not in allowed:
                raise ValueError(f"--only {arch}: --study {self.study} has only {', '.join(allowed)}")
        if self.study == "paper":
            if self.seeds is not None:
                raise ValueError(f"--seeds {self.seeds}: only --study small and ablations train a net several times")
            return
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in OF_THE_PAPER:
            if getattr(self, name) != defaults[name]:
                given = "--no-from-shallow" if name == "from_shallow" else flag(name)
                raise ValueError(f"{given}: is for --study paper only, not for {self.study}")
        if self.study == "small" and self.batch_norm:
            raise ValueError("--batch-norm: --study small trains A to E both without and with it")

    def three_scales(self) -> tuple[str, str, str]:
        """The two fixed train scales and the range. ValueError, one line, for a word in --scales that is no scale."""
        for word in self.scales or ():
            ScaleRange.parse(word, "--scales")
        size = (self.image_size or MODELS["A"].image_size) / 224
        first, second, jittered = (str(scale.scaled(size)) for scale in PAPER_SCALES)
        return self.scales or (first, second, jittered)

    def run(self, arch: Arch, scale: str, init_from: str | None, lr: float) -> TrainSettings:
        """The resolved settings of one of the paper's runs. ValueError, one line that names the flag, as for a training."""
        try:
            return self._run(
                f"{arch}-{scale}",
                arch=arch,
                train_scale=ScaleRange.parse(scale, "--scales"),
                init_from=None if init_from is None else join(self.folder, init_from),
                lr=lr,
                batch_norm=self.batch_norm and MODELS[arch].batch_norm,  # A-LRN has no batch-norm twin
            )
        except ValueError as error:
            raise ValueError(str(error).replace("--train-scale", "--scales", 1)) from None

    def study_run(
        self, name: str, arch: Arch, batch_norm: bool, seed: int, image_size: int | None, init_from: str | None = None
    ) -> TrainSettings:
        """The resolved settings of a run of the other studies. ValueError, one line that names the flag, as for a training.

        `init_from`: the name of another run of the study. --head and --width apply to the nets that have them; S is 256/224
        of the image size.
        """
        return self._run(
            name,
            arch=arch,
            batch_norm=batch_norm,
            head=self.head if self.head in MODELS[arch].heads else "fc",
            width=self.width if MODELS[arch].has_width else 1.0,
            image_size=image_size,
            train_scale=None,
            seed=seed,
            init_from=None if init_from is None else join(self.folder, init_from),
        )

    def _run(self, name: str, **own: Any) -> TrainSettings:
        """The settings of this command, with those of the run's own."""
        return TrainConfig(**self.training_fields() | own | {"name": name, "storage_path": self.folder}).resolved()
