"""The settings of the benchmarks, which are their command lines. No torch in here: `--help` is to be quick."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from vgg_dist.config import Arch, ScaleRange, TrainConfig, at_least, flag
from vgg_dist.config.scale_range import ScaleFlag
from vgg_dist.models.specs import MODELS

Device = Literal["cpu", "cuda"]
PeerName = Literal["spdl", "webdataset", "litdata", "ffcv"]


def check_output(file: Path | None, field: str = "json") -> None:
    """ValueError, one line, if the file cannot be written: better now than after the measuring."""
    if file is not None and (file.is_dir() or not os.access(file if file.exists() else file.absolute().parent, os.W_OK)):
        raise ValueError(f"{flag(field)} {file}: cannot be written; a file in an existing, writable folder is needed")


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """Images/s of this loader, the stock DALI chain, torchvision's and other loaders, and how far their pixels differ."""

    data: str
    """Folder (or URL) with train/ class folders or shards, as the training takes it."""
    threads: int = 2
    """Decoding threads (worker processes of the DataLoader); the whole process is held to as many CPU cores."""
    image_size: int = 224
    """Side of the crops, pixels."""
    train_scale: ScaleFlag = field(default=ScaleRange(256, 512))
    """Training scale S: the smaller side of an image after resizing, in pixels: 256, or a range such as 256-512."""
    batch: int = 64
    """Images a batch."""
    images: int = 1000
    """Images a round, at most: the first ones of the epoch's order."""
    rounds: int = 3
    """Timed rounds; in each one every loader has its turn."""
    device: Device = "cpu"
    """Where decoding ends and batches are wanted: cuda measures nvJPEG (DALI's "mixed" decoder)."""
    peers: tuple[PeerName | Literal["all"], ...] = ()
    """Loaders of other packages to compare too. Packages that are missing here are installed in an environment of their own,
    in ~/.cache/vgg_dist/benchmark-envs (or $VGG_DIST_CACHE); a peer that cannot be run is reported as such."""
    json: Path | None = None
    """File for the figures, the machine and the versions."""

    def check(self) -> None:
        """ValueError, one line that names the flag, for what cannot be."""
        for name in ("threads", "batch", "images", "rounds", "image_size"):
            at_least(name, getattr(self, name), 1)
        at_least("train_scale", self.train_scale.low, self.image_size, "the crop's size")
        at_least("train_scale", self.train_scale.high, self.train_scale.low, "S_min")
        check_output(self.json)

    def peer_names(self) -> list[PeerName]:
        """The peers that `peers` names, each once."""
        every: tuple[PeerName, ...] = get_args(PeerName)
        return [name for name in every if name in self.peers or "all" in self.peers]


@dataclass(frozen=True, kw_only=True)
class StepBenchmark:
    """Images/s of training steps and their share of the machine's matmul peak, beside a plain loop in torch."""

    archs: tuple[Arch, ...] = ("A", "D", "E")
    """Networks, one after the other."""
    precisions: tuple[Literal["fp32", "tf32", "bf16"], ...] = ("fp32", "bf16")
    """Precisions; bf16 is left out where the hardware does not multiply it, unless it is the only one asked for."""
    batch: int = 32
    """Images a step."""
    image_size: int = 224
    """Side of the images, pixels."""
    steps: int = 10
    """Steps a round; as many come first, untimed."""
    rounds: int = 3
    """Timed rounds."""
    batch_norm: bool = False
    """The networks' batch-norm twins."""
    compile: bool = False
    """torch.compile our network; the plain loop stays as it is."""
    deterministic: bool = False
    """Only kernels that give the same bits every time, on a GPU, for both."""
    trace: Path | None = None
    """File for a Chrome trace of one more round of the last network; the operators that take longest are printed."""
    device: Device | None = None
    """Where to train. Default: cuda where there is one."""
    json: Path | None = None
    """File for the figures, the machine and the versions."""

    def check(self) -> None:
        """ValueError, one line that names the flag, for what cannot be."""
        for name in ("batch", "steps", "rounds"):
            at_least(name, getattr(self, name), 1)
        for name in ("archs", "precisions"):
            if not getattr(self, name):
                raise ValueError(f"{flag(name)}: at least one is needed")
        for arch in self.archs:
            self.train_config(arch, "fp32").resolved()
        check_output(self.json)
        check_output(self.trace, "trace")

    def train_config(self, arch: Arch, precision: Literal["fp32", "tf32", "bf16"]) -> TrainConfig:
        """The training whose steps are measured: an untimed round, then the timed ones, metrics after each."""
        return TrainConfig(
            arch=arch,
            batch_norm=self.batch_norm,
            image_size=self.image_size,
            epochs=1,
            max_steps=self.steps * (self.rounds + 1),
            log_every=str(self.steps),
            global_batch=self.batch,
            micro_batch=self.batch,
            lr=1e-6,  # of noise nothing can be learnt, and the loss is to stay finite
            precision=precision,
            compile=self.compile,
            deterministic=self.deterministic,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationBenchmark:
    """Images/s of dense evaluation and of 50 crops, beside plain ways to evaluate densely."""

    data: str
    """Folder (or URL) with train/ class folders or shards; the images of train are taken."""
    arch: Arch = "D"
    """Network, untrained."""
    test_scale: int = 256
    """Smallest side Q of the images."""
    images: int = 64
    """Images a round: the first ones."""
    rounds: int = 3
    """Timed rounds; in each one every way has its turn."""
    micro_batch: int = 32
    """Crops, or as many pixels of whole images, at once."""
    threads: int | None = None
    """Decoding threads. Default: as many as there are CPUs."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """bf16 autocast, tf32 (on GPUs), or true fp32. auto: bf16 where the hardware multiplies bf16 matrices, else fp32."""
    json: Path | None = None
    """File for the figures, the machine and the versions."""

    def check(self) -> None:
        """ValueError, one line that names the flag, for what cannot be."""
        for name in ("images", "rounds", "micro_batch"):
            at_least(name, getattr(self, name), 1)
        at_least("test_scale", self.test_scale, MODELS[self.arch].image_size, "the crop's size")
        check_output(self.json)


@dataclass(frozen=True, kw_only=True)
class StartupBenchmark:
    """Seconds from the command to a training's first step, phase by phase. Takes the flags of vgg_dist.train."""

    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: TrainConfig(data="synthetic:train=16,val=10", global_batch=16, max_steps=1)
    )
    """The training that is started."""
    repeats: int = 3
    """How often it is started."""
    json: Path | None = None
    """File for the figures, the machine and the versions."""

    def check(self) -> None:
        """ValueError, one line that names the flag, for what cannot be."""
        at_least("repeats", self.repeats, 1)
        self.train.resolved()
        check_output(self.json)

    def train_flags(self) -> list[str]:
        """`train` as a command line of vgg_dist.train: the flags that differ from its defaults."""
        return self.train.flags(secrets=True)


@dataclass(frozen=True, kw_only=True)
class CheckpointBenchmark:
    """Seconds for which a checkpoint holds up training, and until it is whole on the storage."""

    arch: Arch = "E"
    """Network."""
    batch_norm: bool = False
    """The network's batch-norm twin."""
    num_classes: int = 1000
    """Classes."""
    storage_path: str | None = None
    """Folder or URL to write to. Default: a temporary folder."""
    rounds: int = 5
    """Timed rounds; one more comes first, untimed."""
    json: Path | None = None
    """File for the figures, the machine and the versions."""

    def check(self) -> None:
        """ValueError, one line that names the flag, for what cannot be."""
        for name in ("num_classes", "rounds"):
            at_least(name, getattr(self, name), 1)
        self.train_config().resolved()
        check_output(self.json)

    def train_config(self) -> TrainConfig:
        """The training whose state is written."""
        return TrainConfig(arch=self.arch, batch_norm=self.batch_norm)


Benchmark = (
    Annotated[LoaderBenchmark, tyro.conf.subcommand("loader")]
    | Annotated[StepBenchmark, tyro.conf.subcommand("step")]
    | Annotated[CheckpointBenchmark, tyro.conf.subcommand("checkpoint")]
    | Annotated[EvaluationBenchmark, tyro.conf.subcommand("evaluation")]
    | Annotated[StartupBenchmark, tyro.conf.subcommand("startup")]
)
