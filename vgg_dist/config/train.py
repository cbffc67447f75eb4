"""The settings of vgg_dist.train: as they are given, resolved, and as a worker has them."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from vgg_dist.config.base import Interval, check_name
from vgg_dist.config.bounds import at_least, check_bounds
from vgg_dist.config.scale_range import ScaleRange
from vgg_dist.config.train_flags import TrainFlags
from vgg_dist.config.worker_range import WorkerRange, most_workers
from vgg_dist.models.specs import MODELS, ModelSpec


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainFlags):
    """Train a VGG network (or LeNet-5, AlexNet, ZFNet) on a Ray cluster, or on this machine where there is none."""

    def resolved(self) -> TrainSettings:
        """With every default filled in. ValueError, one line that names the flag, for a value not allowed."""
        image_size = MODELS[self.arch].image_size if self.image_size is None else self.image_size
        scale = self.train_scale or ScaleRange(256, 256).scaled(image_size / 224)
        settings = TrainSettings(**self.training_fields() | self.located() | {
            "image_size": image_size,
            "train_scale": scale,
            "val_scale": self.val_scale or scale.middle,
            "name": f"{self.arch.lower()}-{time.strftime('%Y%m%d-%H%M%S')}" if self.name is None else self.name,
        })  # fmt: skip
        settings.refuse_masked()
        settings.check()
        return settings


@dataclass(frozen=True, kw_only=True)
class TrainCommand(TrainConfig):
    """The command line of vgg_dist.train: the settings of the run, and what to do with them."""

    dry_run: bool = False
    """Print what would be trained and how many steps and hours that takes, from training steps measured here, and train
    nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainConfig):
    """A `TrainConfig` after `resolved()`: net, scales and name are known."""

    image_size: int = dataclasses.field()
    train_scale: ScaleRange = dataclasses.field()
    val_scale: int = dataclasses.field()
    name: str = dataclasses.field()

    def with_workers(self, num_workers: int) -> TrainSettings:
        """With the number of workers that the cluster gave; a range stays. ValueError if a step has fewer images."""
        if isinstance(self.num_workers, WorkerRange):
            return self
        settings = dataclasses.replace(self, num_workers=num_workers)
        settings.check()
        return settings

    def with_micro_batch(self, images: int) -> WorkerSettings:
        """With the micro-batch that all workers have agreed on."""
        return WorkerSettings(**self.training_fields() | {"micro_batch": images})

    def check(self) -> None:
        """ValueError, one line that names the flag, for a value not allowed."""
        spec = MODELS[self.arch]
        at_least("image_size", self.image_size, spec.min_image_size, f"the least for {self.arch}")
        least = self.image_size - 2 * self.pad
        at_least("train_scale", self.train_scale.low, least, "the crop's size, less the padding")
        at_least("train_scale", self.train_scale.high, self.train_scale.low, "S_min")
        at_least("val_scale", self.val_scale, self.image_size, "the crop's size")
        check_bounds(self)
        for field in ("log_every", "checkpoint_every"):
            Interval.parse(field, getattr(self, field))
        if self.num_workers and most_workers(self.num_workers) > self.global_batch:
            raise ValueError(
                f"--num-workers {self.num_workers}: at most --global-batch {self.global_batch}, one image a worker and step"
            )
        self._check_fc_parallel(spec)
        if self.batch_norm and not spec.batch_norm:
            have = ", ".join(arch for arch, spec in MODELS.items() if spec.batch_norm)
            raise ValueError(f"--batch-norm: there is no batch-norm twin of {self.arch}, only of {have}")
        if self.head not in spec.heads:
            raise ValueError(f"--head {self.head}: {self.arch} has only {', '.join(spec.heads)}")
        if self.width != 1 and not spec.has_width:
            raise ValueError(f"--width {self.width:g}: {self.arch} has only the width 1")
        check_name(self.name, self.storage_path)

    @property
    def fc_group(self) -> int | None:
        """Over how many workers the FC layers are split: 1 for off, None for auto. ValueError for another --fc-parallel."""
        if self.fc_parallel == "auto":
            return None
        if self.fc_parallel != "off" and not (self.fc_parallel.isdecimal() and int(self.fc_parallel)):
            raise ValueError(f"--fc-parallel {self.fc_parallel}: must be off, auto, or the number of workers in a group")
        return 1 if self.fc_parallel == "off" else int(self.fc_parallel)

    def _check_fc_parallel(self, spec: ModelSpec) -> None:
        group = self.fc_group
        if group == 1:
            return
        if self.head != "fc":
            raise ValueError(f"--fc-parallel {self.fc_parallel}: --head {self.head} has no hidden FC layers; allowed: off")
        if group is None:
            return
        if any(width % group for width in spec.fc_widths):
            widths = " and ".join(map(str, sorted(set(spec.fc_widths))))
            raise ValueError(f"--fc-parallel {group}: must divide the {widths} outputs of the FC layers of {self.arch}")
        if isinstance(self.num_workers, WorkerRange):
            raise ValueError(f"--fc-parallel {group}: --num-workers {self.num_workers} is a range; allowed: off, auto")
        if self.num_workers and self.num_workers % group:
            raise ValueError(f"--fc-parallel {group}: must divide --num-workers {self.num_workers}")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(TrainSettings):
    """The settings that a worker trains with: the micro-batch, which depends on the GPUs' memory, is known too."""

    micro_batch: int = dataclasses.field()
