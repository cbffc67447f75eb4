"""The flags of a training, which vgg_dist.train, tune and reproduce share."""

from __future__ import annotations

import dataclasses
import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pipelines.paths import absolute, join
from pipelines.pixels import MAX_PIXELS
from pipelines.secrets import masked
from vgg_dist.config.base import Config, data_location, quarantine_list
from vgg_dist.config.bounds import AtLeast, LessThan, MoreThan
from vgg_dist.config.names import flag
from vgg_dist.config.scale_range import OptionalScaleFlag
from vgg_dist.config.worker_range import OptionalNumWorkers

Arch = Literal["A", "A-LRN", "B", "B-5x5", "C", "D", "E", "lenet5", "alexnet", "zfnet"]


@dataclass(frozen=True, kw_only=True)
class TrainFlags(Config, ABC):
    """The settings of a training as they are given. None stands for a default that follows from other settings."""

    arch: Arch = "A"
    """Network: the paper's configurations A to E (vgg11, vgg13, vgg16 and vgg19 name A, B, D and E; vgg16_bn is D with
    --batch-norm), A-LRN, its control net B-5x5, or an earlier net."""
    batch_norm: bool = False
    """Add batch normalisation after every convolution (A, B, B-5x5, C, D and E only)."""
    head: Literal["fc", "gap", "linear"] = "fc"
    """Classifier: fc, the paper's three fully connected layers; gap, global average pooling and a linear layer; linear, one
    linear layer."""
    width: Annotated[float, MoreThan(0)] = 1.0
    """Factor for the channels of every convolution (VGG only): 0.5 has about a quarter of the multiply-adds."""
    dropout: Annotated[float, AtLeast(0), LessThan(1)] = 0.5
    """Dropout rate after each of the first two fully connected layers."""

    data: str = "synthetic"
    """Folder or URL with train/ and val/, which hold a folder for each class, or shards; or made-up images:
    "synthetic[:train=N,val=N,size=PX,seed=N]"."""
    image_size: int | None = None
    """Side of the net's square input, in pixels. Default: the architecture's own (224 for VGG)."""
    train_scale: OptionalScaleFlag = None
    """Training scale S: the smaller side of an image after resizing, in pixels, such as 256; or a range, such as 256-512,
    from which it is drawn for each image. Default: 256/224 of the image size."""
    val_scale: int | None = None
    """Validation scale Q: the smaller side of an image after resizing, in pixels. Default: S, or the middle of its range."""
    pad: Annotated[int, AtLeast(0)] = 0
    """Black border, in pixels, added on every side after resizing and before the random crop (4 is usual for CIFAR)."""
    flip: bool = True
    """Flip half of the training images horizontally, at random."""
    color_shift: Annotated[float, AtLeast(0)] = 0.1
    """Standard deviation of the random RGB shift along ImageNet's principal colour components; 0 turns it off."""
    max_bad_images: Annotated[int, AtLeast(0)] = 10
    """Images that may fail to decode in an epoch, and in a validation, before the run fails. They are named and left
    out."""
    max_pixels: Annotated[int, AtLeast(1)] = MAX_PIXELS
    """Images with more pixels than this are not decoded, and count as bad images."""
    quarantine: str | None = None
    """File or URL that lists images to leave out, as `pipelines.prepare check` writes it. The list quarantine.txt beside
    the data always counts."""
    shuffle: Literal["full", "blocks"] = "full"
    """Order of the training images: full, all shuffled together; blocks, for shards that do not fit each node's cache:
    every node reads only its own share of the shards, each once an epoch, and shuffles a window of them."""
    loader_threads: Annotated[int | None, AtLeast(1)] = None
    """Threads that decode images, in each worker. Default: the worker's CPUs."""

    epochs: Annotated[int, AtLeast(1)] = 74
    """Passes over the training images, at most. Training ends earlier when the validation error stalls after the last drop
    of the learning rate."""
    max_steps: Annotated[int | None, AtLeast(1)] = None
    """Stop after this many steps, also in the middle of an epoch. Default: no limit."""
    global_batch: Annotated[int, AtLeast(1)] = 256
    """Images in each step, over all workers."""
    micro_batch: Annotated[int | None, AtLeast(1)] = None
    """Images that a worker handles at once; it accumulates gradients up to its share of --global-batch. Default: as many
    as fit into the GPU's memory, at most 256; 64 on a CPU."""
    lr: Annotated[float, MoreThan(0)] = 1e-2
    """Learning rate before the first drop."""
    warmup_epochs: Annotated[float, AtLeast(0)] = 0.0
    """Epochs over which the learning rate rises linearly from 0 to --lr."""
    patience: Annotated[int, AtLeast(1)] = 5
    """Epochs without a better validation top-1 error after which the learning rate is divided by 10."""
    lr_drops: Annotated[int, AtLeast(0)] = 3
    """How often the learning rate may be divided by 10."""
    momentum: Annotated[float, AtLeast(0), LessThan(1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, AtLeast(0)] = 5e-4
    """L2 penalty on the weights."""
    init: Literal["glorot", "gaussian", "he"] = "glorot"
    """How weights are initialised: glorot (Xavier), as the paper recommends; gaussian, with --init-std; he (Kaiming)."""
    init_std: Annotated[float, AtLeast(0)] = 0.01
    """Standard deviation for --init gaussian."""
    init_from: str | None = None
    """Run to copy layers from, by stage and position: its folder, one of its checkpoints, or RUN/best. Default: all layers
    as --init says."""

    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Number format of the matrix products: bf16 (autocast), tf32 (GPUs only), or fp32. auto: bf16 where the hardware
    multiplies bf16 matrices, otherwise fp32."""
    compile: bool = False
    """Compile the net with torch.compile."""
    deterministic: bool = False
    """Make GPU results reproducible: the same bits from the same command on the same GPUs. This costs some speed. Results
    on CPUs are reproducible in any case."""
    bf16_gradients: bool = False
    """Exchange gradients between workers as bf16, which halves the traffic."""
    powersgd_rank: Annotated[int, AtLeast(0)] = 0
    """For slow networks: after the first steps, send gradients as two factors of this rank (PowerSGD) instead of whole; 0
    sends them whole. The net trains a little differently."""
    fc_parallel: str = "off"
    """Split the fully connected layers over groups of N workers, which then exchange features instead of most of the
    gradients; off; or auto, the N with the fewest bytes on the network. The net trains the same."""

    num_workers: OptionalNumWorkers = None
    """Training processes: a number; or a range, such as 2:8, within which they follow the nodes that join and leave the
    cluster. Default: one for each GPU of the cluster, or one if it has none."""
    max_failures: Annotated[int, AtLeast(0)] = 3
    """How often the run is restarted from its last checkpoint after a worker has failed."""
    checkpoint_every: str = "10m"
    """Time (30s, 10m, 1h) or number of steps (1000) between checkpoints within an epoch. Every epoch also ends with a
    checkpoint."""
    log_every: str = "5s"
    """Time or number of steps between logged metrics. Checkpoints by time are written at the next of these."""
    storage_path: str = "runs"
    """Folder or URL (s3://, gs://, ...) for the runs. With several nodes, one that all of them can reach."""
    name: str | None = None
    """Name of the run, and of its folder in --storage-path. If there is a run of that name, it is resumed, with its settings
    where no others are given. Default: architecture and time."""
    experiment: str = "vgg_dist"
    """MLflow experiment in which the run is recorded."""
    tracking_uri: str | None = None
    """MLflow server. Default: an SQLite file in --storage-path."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of the initial weights, the order of the images, crops, flips and dropout."""

    @abstractmethod
    def resolved(self) -> TrainFlags:
        """With every default filled in. ValueError, one line that names the flag, for a value not allowed."""

    @property
    def folder(self) -> str:
        """The folder of the run, search or reproduction in --storage-path. Needs a name, which resolved settings have."""
        assert self.name is not None, "a config has a name once it is resolved"
        return join(self.storage_path, self.name)

    def located(self) -> dict[str, Any]:
        """The fields that are paths or URLs (storage_path, data, quarantine, init_from), made absolute."""
        return {
            "storage_path": absolute(self.storage_path),
            "data": data_location(self.data),
            "quarantine": quarantine_list(self.data, self.quarantine),
            "init_from": None if self.init_from is None else absolute(self.init_from),
        }

    def training_fields(self) -> dict[str, Any]:
        """The fields of a training, without those that only a search or a reproduction has."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainFlags)}

    def command_line(self) -> str:
        """The vgg_dist.train command with these settings, for people: without defaults, secrets masked."""
        return shlex.join(["python", "-m", "vgg_dist.train", *self.flags()])

    def flags(self, secrets: bool = False) -> list[str]:
        """The flags of vgg_dist.train that differ from their defaults, and their values. `secrets`: do not mask them."""
        words: list[str] = []
        for field in dataclasses.fields(TrainFlags):
            value = getattr(self, field.name)
            value = value if secrets else masked(value)
            if value == field.default or value is None:
                continue
            if isinstance(value, bool):
                words.append(flag(field.name if value else f"no_{field.name}"))
            else:
                words += [flag(field.name), str(value)]
        return words
