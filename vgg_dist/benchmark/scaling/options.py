"""The settings of `benchmark scaling`, which are also its command line. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vgg_dist.benchmark.options import check_output
from vgg_dist.benchmark.scaling.layouts import DDP_BUCKET_MB, LayoutName, layout_fields, train_config
from vgg_dist.config import at_least, flag

# The nets whose layers the model describes: convolutions and the paper's three FC layers.
Net = Literal["A", "B", "C", "D", "E"]


@dataclass(frozen=True, kw_only=True)
class ScalingBenchmark:
    """Bytes and seconds of training steps on several hosts with slow links by layout, and a model that predicts clusters."""

    archs: tuple[Net, ...] = ("A", "E")
    """Networks to measure. The model is fitted to the first and checked on the others."""
    layouts: tuple[LayoutName, ...] = get_args(LayoutName)
    """Layouts to measure, in turn in each round."""
    bucket_mb: tuple[int, ...] = (DDP_BUCKET_MB,)
    """Sizes of DDP's buckets, MiB. Each layout is measured with each of them; the model is fitted to the first."""
    hosts: int = 2
    """Hosts to measure on: network namespaces of this machine, with one worker each. Needs root."""
    mbits: tuple[float, ...] = (1000.0, 100.0, 300.0)
    """Rates of the hosts' links, Mbit/s. The model is fitted without the last, and checked on it."""
    image_size: int = 64
    """Side of the images, px."""
    global_batch: int = 64
    """Images per step, over all hosts."""
    threads: int = 1
    """Threads of each worker. The hosts share this machine's cores."""
    steps: int = 3
    """Timed steps per layout and round."""
    rounds: int = 3
    """Timed rounds; each measures every layout once."""
    measure: bool = True
    """Measure and fit. --no-measure only predicts clusters, and needs no root."""
    gpu_rate: float = 154.0
    """For the prediction: images/s of a training of D at 224 px on one GPU, as `benchmark step` measures it. Default: a
    P100 in fp32."""
    gpu_batch: int = 64
    """For the prediction: images of each GPU in a step."""
    gpu_precision: Literal["fp32", "bf16"] = "fp32"
    """For the prediction: precision of that training, in which groups that share the FC layers exchange features."""
    gpus_per_node: int = 8
    """For the prediction: GPUs of each node, which share its network link."""
    json: Path | None = None
    """File for the results, with the machine and the versions."""
    plot: Path | None = None
    """File for a plot of the results, SVG or PNG."""

    def check(self) -> None:
        """Raises ValueError, one line that names the flag, for an invalid setting."""
        for name in ("threads", "steps", "rounds", "gpu_batch", "gpus_per_node"):
            at_least(name, getattr(self, name), 1)
        at_least("hosts", self.hosts, 2)
        for name in ("archs", "layouts", "mbits", "bucket_mb"):
            if not getattr(self, name):
                raise ValueError(f"{flag(name)}: needs at least one value")
        for name, values in (("mbits", self.mbits), ("gpu_rate", (self.gpu_rate,))):
            for value in values:
                if not value > 0:
                    raise ValueError(f"{flag(name)} {value:g}: must be more than 0")
        for size in self.bucket_mb:
            at_least("bucket_mb", size, 1)
        if self.global_batch < 1 or self.global_batch % self.hosts:
            raise ValueError(f"--global-batch {self.global_batch}: must be a multiple of --hosts {self.hosts}")
        if any(layout.startswith("fc") for layout in self.layouts) and 4096 % self.hosts:
            raise ValueError(f"--hosts {self.hosts}: --layouts fc... splits 4,096 units over them; allowed: a power of two")
        for arch in self.archs:
            for layout in self.layouts:
                config = train_config(arch, self.image_size, self.global_batch, layout_fields(layout, self.hosts))
                config.resolved().with_workers(self.hosts)
        check_output(self.json)
        check_output(self.plot, "plot")
        if self.plot is not None and self.plot.suffix not in (".svg", ".png"):
            raise ValueError(f"--plot {self.plot}: must end in .svg or .png")

    @property
    def images(self) -> int:
        """Images of each host in a step."""
        return self.global_batch // self.hosts
