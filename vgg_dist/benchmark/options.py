"""The settings of the benchmarks, which are also their command lines. Does not import torch, so that `--help` is fast."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from pipelines.remote import parse_size
from vgg_dist.config import Arch, ScaleRange, TrainConfig, at_least, flag
from vgg_dist.config.scale_range import ScaleFlag
from vgg_dist.models.specs import MODELS

Device = Literal["cpu", "cuda"]
PeerName = Literal["spdl", "webdataset", "litdata", "ffcv"]


def check_output(file: Path | None, field: str = "json") -> None:
    """Raises ValueError, one line, if the file cannot be written; called before the benchmark, not after it."""
    if file is not None and (file.is_dir() or not os.access(file if file.exists() else file.absolute().parent, os.W_OK)):
        raise ValueError(f"{flag(field)} {file}: cannot be written; must be a file in an existing, writable folder")


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """Images/s of this loader, the stock DALI pipeline, torchvision's and other loaders, and differences of their pixels."""

    data: str
    """Folder (or URL) with train/ class folders or shards, as for training."""
    threads: int = 2
    """Decoding threads (or worker processes of a DataLoader); the benchmark is limited to as many CPU cores."""
    image_size: int = 224
    """Side of the crops, px."""
    train_scale: ScaleFlag = field(default=ScaleRange(256, 512))
    """Training scale S: the smaller side of an image after resizing, in pixels: 256, or a range such as 256-512."""
    batch: int = 64
    """Images per batch."""
    images: int = 1000
    """Largest number of images per round; the first ones of the epoch are used."""
    rounds: int = 3
    """Timed rounds; each measures every loader once."""
    device: Device = "cpu"
    """Device of the finished batches; cuda also decodes there, with nvJPEG (DALI's "mixed" decoder)."""
    peers: tuple[PeerName | Literal["all"], ...] = ()
    """Loaders of other packages to include. Missing packages are installed into a separate environment in
    ~/.cache/vgg_dist/benchmark-envs (or $VGG_DIST_CACHE); a peer that cannot be run is reported as such."""
    json: Path | None = None
    """File for the results, with the machine and the versions."""

    def check(self) -> None:
        """Raises ValueError, one line that names the flag, for an invalid setting."""
        for name in ("threads", "batch", "images", "rounds", "image_size"):
            at_least(name, getattr(self, name), 1)
        at_least("train_scale", self.train_scale.low, self.image_size, "the crop's size")
        at_least("train_scale", self.train_scale.high, self.train_scale.low, "S_min")
        check_output(self.json)

    def peer_names(self) -> list[PeerName]:
        """The names of the selected peers, each once."""
        every: tuple[PeerName, ...] = get_args(PeerName)
        return [name for name in every if name in self.peers or "all" in self.peers]


@dataclass(frozen=True, kw_only=True)
class SegmentsBenchmark:
    """Bytes that JPEG segments of each width add to shards, and images/s of decoding the cut-outs under crops of 224 px."""

    data: str
    """Folder (or URL) with train/ class folders or shards whose images have no restart markers."""
    images: int = 500
    """Largest number of images; the first ones of an epoch are used. They are held in memory once per width."""
    threads: int = 2
    """Decoding threads; the benchmark is limited to as many CPU cores."""
    rounds: int = 5
    """Timed rounds; each decodes all images once per width and training scale."""
    widths: tuple[str, ...] = ("8", "16", "32", "48", "64", "96", "128", "row")
    """Wanted widths of a segment, in pixels; row: segments as wide as the image."""
    train_scales: tuple[str, ...] = ("256", "384", "256-512")
    """Training scales S, in pixels, each a number such as 256 or a range such as 256-512."""
    json: Path | None = None
    """File for the results, with the machine and the versions."""

    def check(self) -> None:
        """Raises ValueError, one line that names the flag, for an invalid setting."""
        for name in ("images", "threads", "rounds"):
            at_least(name, getattr(self, name), 1)
        for name in ("widths", "train_scales"):
            if not getattr(self, name):
                raise ValueError(f"{flag(name)}: needs at least one value")
        for width in self.widths:
            if width != "row" and not (width.isdecimal() and int(width)):
                raise ValueError(f"--widths {width}: must be a whole number of pixels of at least 1, or row")
        for scale in self.scales().values():
            at_least("train_scales", scale.low, MODELS["E"].image_size, "the crop's size")
            at_least("train_scales", scale.high, scale.low, "S_min")
        check_output(self.json)

    def scales(self) -> dict[str, ScaleRange]:
        """The training scales by their text, each once."""
        return {text: ScaleRange.parse(text, "--train-scales") for text in self.train_scales}


@dataclass(frozen=True, kw_only=True)
class StepBenchmark:
    """Images/s of training steps and their share of the machine's matmul peak, compared with a plain loop in torch."""

    archs: tuple[Arch, ...] = ("A", "D", "E")
    """Networks to measure."""
    precisions: tuple[Literal["fp32", "tf32", "bf16"], ...] = ("fp32", "bf16")
    """Precisions to measure; bf16 is skipped on hardware without bf16 matrix units, unless it is the only one."""
    batch: int = 32
    """Images per step."""
    image_size: int = 224
    """Side of the images, px."""
    steps: int = 10
    """Steps per round; the first round is not timed."""
    rounds: int = 3
    """Timed rounds."""
    batch_norm: bool = False
    """Use the networks with batch norm."""
    compile: bool = False
    """Compile our network with torch.compile; the plain loop is not compiled."""
    deterministic: bool = False
    """On a GPU, use only kernels with bit-equal results, in both loops."""
    trace: Path | None = None
    """File for a Chrome trace of an extra round of the last network; also prints the slowest operators."""
    device: Device | None = None
    """Device to train on. Default: cuda if there is a GPU."""
    json: Path | None = None
    """File for the results, with the machine and the versions."""

    def check(self) -> None:
        """Raises ValueError, one line that names the flag, for an invalid setting."""
        for name in ("batch", "steps", "rounds"):
            at_least(name, getattr(self, name), 1)
        for name in ("archs", "precisions"):
            if not getattr(self, name):
                raise ValueError(f"{flag(name)}: needs at least one value")
        for arch in self.archs:
            self.train_config(arch, "fp32").resolved()
        check_output(self.json)
        check_output(self.trace, "trace")

    def train_config(self, arch: Arch, precision: Literal["fp32", "tf32", "bf16"]) -> TrainConfig:
        """The training whose steps are measured: an untimed round, then the timed ones, with metrics after each."""
        return TrainConfig(
            arch=arch,
            batch_norm=self.batch_norm,
            image_size=self.image_size,
            epochs=1,
            max_steps=self.steps * (self.rounds + 1),
            log_every=str(self.steps),
            global_batch=self.batch,
            micro_batch=self.batch,
            lr=1e-6,  # small, so that the loss stays finite on images of noise
            precision=precision,
            compile=self.compile,
            deterministic=self.deterministic,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationBenchmark:
    """Images/s of dense evaluation and of 50 crops, compared with simpler ways to evaluate densely."""

    data: str
    """Folder (or URL) with train/ class folders or shards; the images of train are used."""
    arch: Arch = "D"
    """Network; it is untrained."""
    test_scale: int = 256
    """Smallest side Q of the images."""
    images: int = 64
    """Images per round; the first ones are used."""
    rounds: int = 3
    """Timed rounds; each measures every way once."""
    micro_batch: int = 32
    """Crops per batch; for whole images, the same number of pixels."""
    threads: int | None = None
    """Decoding threads. Default: the number of CPUs."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """bf16 autocast, tf32 (on GPUs), or true fp32. auto: bf16 on hardware with bf16 matrix units, else fp32."""
    json: Path | None = None
    """File for the results, with the machine and the versions."""

    def check(self) -> None:
        """Raises ValueError, one line that names the flag, for an invalid setting."""
        for name in ("images", "rounds", "micro_batch"):
            at_least(name, getattr(self, name), 1)
        at_least("test_scale", self.test_scale, MODELS[self.arch].image_size, "the crop's size")
        check_output(self.json)


@dataclass(frozen=True, kw_only=True)
class StartupBenchmark:
    """Seconds from the command to a training's first step, by phase. Takes all flags of vgg_dist.train."""

    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainConfig(data="synthetic:train=16,val=10", global_batch=16, max_steps=1)
    )
    """The training to start."""
    repeats: int = 3
    """How many times to start it."""
    json: Path | None = None
    """File for the results, with the machine and the versions."""

    def check(self) -> None:
        """Raises ValueError, one line that names the flag, for an invalid setting."""
        at_least("repeats", self.repeats, 1)
        self.train.resolved()
        check_output(self.json)

    def train_flags(self) -> list[str]:
        """`train` as a command line of vgg_dist.train: all flags that differ from the defaults."""
        return self.train.flags(secrets=True)


@dataclass(frozen=True, kw_only=True)
class CheckpointBenchmark:
    """Seconds for which a checkpoint blocks training, and until it is complete on the storage."""

    arch: Arch = "E"
    """Network whose state is written."""
    batch_norm: bool = False
    """Use the network with batch norm."""
    num_classes: int = 1000
    """Number of classes."""
    storage_path: str | None = None
    """Folder or URL to write to. Default: a temporary folder."""
    rounds: int = 5
    """Timed rounds, after an untimed one."""
    json: Path | None = None
    """File for the results, with the machine and the versions."""

    def check(self) -> None:
        """Raises ValueError, one line that names the flag, for an invalid setting."""
        for name in ("num_classes", "rounds"):
            at_least(name, getattr(self, name), 1)
        self.train_config().resolved()
        check_output(self.json)

    def train_config(self) -> TrainConfig:
        """The training whose state is written."""
        return TrainConfig(arch=self.arch, batch_norm=self.batch_norm)


@dataclass(frozen=True, kw_only=True)
class CacheBenchmark:
    """What a node fetches and how long it waits when shards behind a URL do not fit its cache; simulated."""

    data_tb: float = 10.0
    """Size of the training images, TB."""
    shard_mb: float = 256.0
    """Size of a shard, MB."""
    image_kb: float = 110.0
    """Size of an image, kB."""
    nodes: int = 64
    """Nodes that train."""
    gpus: int = 8
    """GPUs of each node."""
    images_per_second: float = 1000.0
    """Training speed of a GPU that never waits, images/s."""
    global_batch: int = 16384
    """Images in each step, over all workers."""
    epochs: int = 74
    """Epochs of the training, of which two are simulated. With a full shuffle, shards are copied first if there are more of
    them than nodes."""
    bandwidth: float = 2.0
    """From the storage to each node, GB/s."""
    requests_per_second: float = 55_000.0
    """That the storage serves, over all nodes; of S3, 5,500 for each prefix."""
    latency_ms: float = 50.0
    """Until the first byte of a read, ms."""
    caches: tuple[str, ...] = ("0", "250GB", "1TB", "all")
    """Sizes of each node's cache, as in VGG_DIST_CACHE_SIZE; all: as large as the data."""
    shuffles: tuple[Literal["full", "blocks"], ...] = ("full", "blocks")
    """Orders of the images, as --shuffle of vgg_dist.train."""
    json: Path | None = None
    """File for the results, with the machine and the versions."""

    def check(self) -> None:
        """Raises ValueError, one line that names the flag, for an invalid setting."""
        for name in ("nodes", "gpus", "epochs", "global_batch"):
            at_least(name, getattr(self, name), 1)
        for name in ("data_tb", "shard_mb", "image_kb", "images_per_second", "bandwidth", "requests_per_second"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{flag(name)} {getattr(self, name):g}: must be more than 0")
        at_least("latency_ms", self.latency_ms, 0)
        at_least("shard_mb", self.shard_mb, self.image_kb / 1e3, "the size of an image")
        at_least("data_tb", self.data_tb, self.nodes * self.shard_mb / 1e6, "a shard for each node")
        self.cache_sizes(0)
        check_output(self.json)

    def cache_sizes(self, data_bytes: int) -> dict[str, int]:
        """Bytes of each of `caches`. Raises ValueError, one line, for no size."""
        return {text: data_bytes if text == "all" else parse_size(text, "--caches") for text in self.caches}
