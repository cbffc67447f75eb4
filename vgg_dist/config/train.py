"""The settings of vgg_dist.train."""

from __future__ import annotations

import dataclasses
import shlex
import time
from dataclasses import dataclass
from typing import Literal

from pipelines.paths import absolute
from pipelines.pixels import MAX_PIXELS
from pipelines.secrets import masked
from vgg_dist.config.base import Config, Interval, at_least, check_name, data_location, flag, quarantine_list
from vgg_dist.config.scale_range import OptionalScaleFlag, ScaleRange
from vgg_dist.models.specs import MODELS

Arch = Literal["A", "A-LRN", "B", "B-5x5", "C", "D", "E", "lenet5", "alexnet", "zfnet"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Train a VGG network (or LeNet-5, AlexNet, ZFNet) on a Ray cluster, or on this machine where there is none."""

    arch: Arch = "A"
    """Network: the paper's configurations A to E, its control net B-5x5, or an earlier net."""
    batch_norm: bool = False
    """Batch normalisation after every convolution (A, B, C, D, E)."""
    head: Literal["fc", "gap", "linear"] = "fc"
    """Classifier: the paper's three FC layers, global average pool + linear, or one linear layer."""
    dropout: float = 0.5
    """Dropout after the first two FC layers."""

    data: str = "synthetic"
    """Folder (or URL) with train/ and val/ class folders or shards, or "synthetic[:train=N,val=N,size=PX,seed=N]"."""
    image_size: int | None = None
    """Side of the net's square input in pixels. Default: the architecture's (224 for VGG)."""
    train_scale: OptionalScaleFlag = None
    """Training scale S: the smaller side of an image after resizing, in pixels, such as 256; or a range, such as 256-512,
    from which it is drawn for each image. Default: 256/224 of the image size."""
    val_scale: int | None = None
    """Validation scale Q: the smaller side of an image after resizing, in pixels. Default: S, or the middle of its range."""
    pad: int = 0
    """Black border in pixels added after rescaling, before the random crop (CIFAR's "pad 4")."""
    flip: bool = True
    """Random horizontal flip."""
    color_shift: float = 0.1
    """Standard deviation of the random RGB shift along ImageNet's colour components; 0 for none."""
    max_bad_images: int = 10
    """Images of an epoch, and of a validation, that may be undecodable (named and left out) before the run fails."""
    max_pixels: int = MAX_PIXELS
    """Images of more pixels are not decoded; bad images, that is."""
    quarantine: str | None = None
    """List (file or URL) of images to leave out besides those in quarantine.txt beside the data, as check was given it."""
    loader_threads: int | None = None
    """Threads that decode images, per worker. Default: the CPUs of a worker."""

    epochs: int = 74
    """Passes over the training images, at most: training also ends when the error stalls after the last drop of the lr."""
    max_steps: int | None = None
    """Stop after this many steps, wherever in an epoch that is."""
    global_batch: int = 256
    """Images a step, over all workers."""
    micro_batch: int | None = None
    """Images a worker handles at once; gradients are accumulated up to its share of the global batch. Default: what fits
    a GPU's memory, at most 256; 64 on a CPU."""
    lr: float = 1e-2
    """Learning rate before any drop."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly from zero."""
    patience: int = 5
    """Epochs without a better validation top-1 error before the learning rate is divided by 10."""
    lr_drops: int = 3
    """How often the learning rate may be divided by 10."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 5e-4
    """L2 penalty."""
    init: Literal["glorot", "gaussian", "he"] = "glorot"
    """Initialisation of the weights."""
    init_std: float = 0.01
    """Standard deviation of --init gaussian."""
    init_from: str | None = None
    """A run's folder (or a checkpoint of it; RUN/best is its best) whose layers are copied, by stage and position."""

    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """bf16 autocast, tf32 (on GPUs), or true fp32. auto: bf16 where the hardware multiplies bf16 matrices, else fp32."""
    compile: bool = False
    """torch.compile the net."""
    deterministic: bool = False
    """The same bits from the same command on the same GPUs, at some cost in speed; on CPUs that holds in any case."""
    compress_gradients: bool = False
    """Send gradients between workers as bf16."""

    num_workers: int | None = None
    """Training processes. Default: one for each GPU of the cluster, or one where there is no GPU."""
    max_failures: int = 3
    """How often the run is restarted from its last checkpoint when a worker fails."""
    checkpoint_every: str = "10m"
    """Time (30s, 10m, 1h) or steps (1000) between checkpoints within an epoch; each epoch ends with one in any case."""
    log_every: str = "5s"
    """Time or steps between logged metrics; a checkpoint by time waits for the next of those."""
    storage_path: str = "runs"
    """Folder or URL (s3://, gs://, ...) for checkpoints; on several nodes one that all of them see."""
    name: str | None = None
    """Name of the run. The same --storage-path and --name again resume it, with its settings where no others are given.
    Default: arch and time."""
    experiment: str = "vgg_dist"
    """MLflow experiment."""
    tracking_uri: str | None = None
    """MLflow server. Default: an sqlite file in --storage-path."""
    seed: int = 0
    """Seed of the weights, the order of images, crops, flips and dropout."""

    def resolved(self) -> TrainConfig:
        """With every default filled in. ValueError, one line that names the flag, for what cannot be."""
        spec = MODELS[self.arch]
        image_size = spec.image_size if self.image_size is None else self.image_size
        scale = self.train_scale or ScaleRange(256, 256).scaled(image_size / 224)
        config = dataclasses.replace(
            self,
            image_size=image_size,
            train_scale=scale,
            val_scale=self.val_scale or scale.middle,
            name=f"{self.arch.lower()}-{time.strftime('%Y%m%d-%H%M%S')}" if self.name is None else self.name,
            storage_path=absolute(self.storage_path),
            data=data_location(self.data),
            quarantine=quarantine_list(self.data, self.quarantine),
            init_from=None if self.init_from is None else absolute(self.init_from),
        )
        config.refuse_masked()
        config._check()
        return config

    def with_workers(self, num_workers: int) -> TrainConfig:
        """For a cluster that gave so many workers. ValueError if that is more than a step has images."""
        config = dataclasses.replace(self, num_workers=num_workers)
        config._check()
        return config

    def command_line(self) -> str:
        """The vgg_dist.train command of these settings, to be shown: without defaults, and with secrets masked."""
        words = ["python", "-m", "vgg_dist.train"]
        for field in dataclasses.fields(TrainConfig):
            value = masked(getattr(self, field.name))
            if value == field.default or value is None:
                continue
            if isinstance(value, bool):
                words.append(flag(field.name if value else f"no_{field.name}"))
            else:
                words += [flag(field.name), *map(str, value if isinstance(value, tuple) else [value])]
        return shlex.join(words)

    def _check(self) -> None:
        assert self.train_scale is not None
        at_least("image_size", self.image_size, MODELS[self.arch].min_image_size, f"the least for {self.arch}")
        at_least(
            "train_scale", self.train_scale.low, (self.image_size or 0) - 2 * self.pad, "the crop's size, less the padding"
        )
        at_least("train_scale", self.train_scale.high, self.train_scale.low, "S_min")
        at_least("val_scale", self.val_scale, self.image_size or 0, "the crop's size")
        for field in ("epochs", "global_batch", "patience", "max_pixels"):
            at_least(field, getattr(self, field), 1)
        for field in ("log_every", "checkpoint_every"):
            Interval.parse(field, getattr(self, field))
        for field in ("micro_batch", "max_steps", "num_workers", "loader_threads"):
            if (value := getattr(self, field)) is not None:
                at_least(field, value, 1)
        for field in (
            "pad", "color_shift", "max_bad_images", "warmup_epochs", "lr_drops", "weight_decay", "momentum", "init_std",
            "max_failures", "dropout", "seed",
        ):  # fmt: skip
            at_least(field, getattr(self, field), 0)
        for field, value in (("dropout", self.dropout), ("momentum", self.momentum)):
            if value >= 1:
                raise ValueError(f"{flag(field)} {value}: must be less than 1")
        if not self.lr > 0:  # NaN is refused too
            raise ValueError(f"--lr {self.lr}: must be more than 0")
        if self.num_workers and self.num_workers > self.global_batch:
            raise ValueError(
                f"--num-workers {self.num_workers}: at most --global-batch {self.global_batch}, one image a worker and step"
            )
        if self.batch_norm and not MODELS[self.arch].batch_norm:
            have = ", ".join(arch for arch, spec in MODELS.items() if spec.batch_norm)
            raise ValueError(f"--batch-norm: there is no batch-norm twin of {self.arch}, only of {have}")
        if self.head not in MODELS[self.arch].heads:
            raise ValueError(f"--head {self.head}: {self.arch} has only {', '.join(MODELS[self.arch].heads)}")
        if self.name is not None:
            check_name(self.name, self.storage_path)
