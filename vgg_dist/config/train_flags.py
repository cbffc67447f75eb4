"""The flags of a training. vgg_dist.train, tune and reproduce have them in common."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pipelines.paths import absolute, join
from pipelines.pixels import MAX_PIXELS
from pipelines.secrets import masked
from vgg_dist.config.base import Config, data_location, quarantine_list
from vgg_dist.config.bounds import AtLeast, LessThan, MoreThan
from vgg_dist.config.names import flag
from vgg_dist.config.scale_range import OptionalScaleFlag

Arch = Literal["A", "A-LRN", "B", "B-5x5", "C", "D", "E", "lenet5", "alexnet", "zfnet"]


@dataclass(frozen=True, kw_only=True)
class TrainFlags(Config):
    """What the command line says of a training; None stands for a default that follows from other settings."""

    arch: Arch = "A"
    """Network: the paper's configurations A to E, its control net B-5x5, or an earlier net."""
    batch_norm: bool = False
    """Batch normalisation after every convolution (A, B, C, D, E)."""
    head: Literal["fc", "gap", "linear"] = "fc"
    """Classifier: the paper's three FC layers, global average pool + linear, or one linear layer."""
    dropout: Annotated[float, AtLeast(0), LessThan(1)] = 0.5
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
    pad: Annotated[int, AtLeast(0)] = 0
    """Black border in pixels added after rescaling, before the random crop (CIFAR's "pad 4")."""
    flip: bool = True
    """Random horizontal flip."""
    color_shift: Annotated[float, AtLeast(0)] = 0.1
    """Standard deviation of the random RGB shift along ImageNet's colour components; 0 for none."""
    max_bad_images: Annotated[int, AtLeast(0)] = 10
    """Images of an epoch, and of a validation, that may be undecodable (named and left out) before the run fails."""
    max_pixels: Annotated[int, AtLeast(1)] = MAX_PIXELS
    """Images of more pixels are not decoded; bad images, that is."""
    quarantine: str | None = None
    """List (file or URL) of images to leave out besides those in quarantine.txt beside the data, as check was given it."""
    loader_threads: Annotated[int | None, AtLeast(1)] = None
    """Threads that decode images, per worker. Default: the CPUs of a worker."""

    epochs: Annotated[int, AtLeast(1)] = 74
    """Passes over the training images, at most: training also ends when the error stalls after the last drop of the lr."""
    max_steps: Annotated[int | None, AtLeast(1)] = None
    """Stop after this many steps, wherever in an epoch that is."""
    global_batch: Annotated[int, AtLeast(1)] = 256
    """Images a step, over all workers."""
    micro_batch: Annotated[int | None, AtLeast(1)] = None
    """Images a worker handles at once; gradients are accumulated up to its share of the global batch. Default: what fits
    a GPU's memory, at most 256; 64 on a CPU."""
    lr: Annotated[float, MoreThan(0)] = 1e-2
    """Learning rate before any drop."""
    warmup_epochs: Annotated[float, AtLeast(0)] = 0.0
    """Epochs over which the learning rate rises linearly from zero."""
    patience: Annotated[int, AtLeast(1)] = 5
    """Epochs without a better validation top-1 error before the learning rate is divided by 10."""
    lr_drops: Annotated[int, AtLeast(0)] = 3
    """How often the learning rate may be divided by 10."""
    momentum: Annotated[float, AtLeast(0), LessThan(1)] = 0.9
    """SGD momentum."""
    weight_decay: Annotated[float, AtLeast(0)] = 5e-4
    """L2 penalty."""
    init: Literal["glorot", "gaussian", "he"] = "glorot"
    """Initialisation of the weights."""
    init_std: Annotated[float, AtLeast(0)] = 0.01
    """Standard deviation of --init gaussian."""
    init_from: str | None = None
    """A run's folder (or a checkpoint of it; RUN/best is its best) whose layers are copied, by stage and position."""

    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """bf16 autocast, tf32 (on GPUs), or true fp32. auto: bf16 where the hardware multiplies bf16 matrices, else fp32."""
    compile: bool = False
    """torch.compile the net."""
    deterministic: bool = False
    """The same bits from the same command on the same GPUs, at some cost in speed; on CPUs that holds in any case."""
    bf16_gradients: bool = False
    """Send gradients between workers as bf16."""

    num_workers: Annotated[int | None, AtLeast(1)] = None
    """Training processes. Default: one for each GPU of the cluster, or one where there is no GPU."""
    max_failures: Annotated[int, AtLeast(0)] = 3
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
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of the weights, the order of images, crops, flips and dropout."""

    def resolved(self) -> TrainFlags:
        """With every default filled in. ValueError, one line that names the flag, for what cannot be."""
        raise NotImplementedError

    @property
    def folder(self) -> str:
        """The folder of what `name` names (a run, a search or a reproduction). Only where there is a name."""
        assert self.name is not None, "a config has a name once it is resolved"
        return join(self.storage_path, self.name)

    def located(self) -> dict[str, Any]:
        """The fields that are places, made absolute: --storage-path, --data, --quarantine and --init-from."""
        return {
            "storage_path": absolute(self.storage_path),
            "data": data_location(self.data),
            "quarantine": quarantine_list(self.data, self.quarantine),
            "init_from": None if self.init_from is None else absolute(self.init_from),
        }

    def training_fields(self) -> dict[str, Any]:
        """The fields of a training alone, without those that a search or a reproduction has besides."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainFlags)}

    def command_line(self) -> str:
        """The vgg_dist.train command of these settings, to be shown: without defaults, and with secrets masked."""
        words = ["python", "-m", "vgg_dist.train"]
        for field in dataclasses.fields(TrainFlags):
            value = masked(getattr(self, field.name))
            if value == field.default or value is None:
                continue
            if isinstance(value, bool):
                words.append(flag(field.name if value else f"no_{field.name}"))
            else:
                words += [flag(field.name), str(value)]
        return shlex.join(words)
