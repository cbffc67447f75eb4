"""What the model predicts for clusters of GPUs, and for the scaling that others have published.

The net is D (VGG-16) at 224 px. Efficiency is the throughput of W GPUs divided by W times that of one GPU. Weak scaling, as
in the published figures: the images of each GPU stay the same. Strong scaling: the global batch stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vgg_dist.benchmark.scaling.layouts import TITLES, layout_fields
from vgg_dist.benchmark.scaling.model import Cluster, Compute, Constants, step
from vgg_dist.benchmark.scaling.net import describe
from vgg_dist.benchmark.scaling.options import ScalingBenchmark
from vgg_dist.benchmark.scaling.traffic import Exchange, exchange_of

WORKERS = 8, 64, 512
GBITS = 25, 100, 400
FEATURE_BYTES = {"fp32": 4, "bf16": 2}
STRONG_BATCH = 256  # the paper's
FC_GROUPS = [2**power for power in range(1, 10)]
NVLINK = 100e9  # bytes/s each way of a GPU to the others of its node
PCIE = 10e9
GPU_MEMORY = 732e9  # bytes/s, of a P100

GPU_CONSTANTS = Constants(
    efficiency=0.95,
    hop_s=15e-6,  # with it the model gives both of Horovod's figures within two points (see `published`)
    host_s_per_byte=0.0,  # GPUs compute while others of their units copy
    bf16_s_per_byte=3 / GPU_MEMORY,  # read 4 bytes and write 2, and back
    powersgd_s_per_byte=8 / GPU_MEMORY,  # eight passes over the gradient and the error that is kept
)


@dataclass(frozen=True)
class Prediction:
    """The efficiency of a layout on a cluster. `group`: workers of an FC group, the best; 1 without."""

    layout: str
    workers: int
    gbits: float
    images: float
    group: int
    seconds: float
    efficiency: float
    strong: bool


def compute(rate: float, images: float) -> Compute:
    """A GPU's step of so many images at `rate` images/s: a third of it forward, two thirds backward."""
    seconds = images / rate
    return Compute(seconds / 3, 2 * seconds / 3)


def predict(
    options: ScalingBenchmark, workers: Sequence[int] = WORKERS, gbits: Sequence[float] = GBITS, trees: bool = True
) -> list[Prediction]:
    """Every layout on every cluster: so many GPUs, links of so many Gbit/s. Strong scaling where each GPU has an image.

    `trees`: whether all-reduces may take trees (see `model.Cluster`).
    """
    found = []
    for strong in (False, True):
        for count in workers:
            images = STRONG_BATCH / count if strong else options.gpu_batch
            if images < 1:
                continue
            for rate in gbits:
                cluster = Cluster(count, rate * 1e9 / 8, options.gpus_per_node, NVLINK, trees)
                alone = compute(options.gpu_rate, images)
                for layout in TITLES:
                    seconds, group = _best(_exchanges(layout, count, options), alone, images, cluster)
                    efficiency = alone.step_s / seconds
                    found.append(Prediction(layout, count, rate, images, group, seconds, efficiency, strong))
    return found


def _best(exchanges: Iterable[Exchange], alone: Compute, images: float, cluster: Cluster) -> tuple[float, int]:
    """Seconds of the shortest step, and its group."""
    return min(
        (step(describe("D", 224), exchange, alone, images, cluster, GPU_CONSTANTS).seconds, exchange.group)
        for exchange in exchanges
    )


def _exchanges(layout: str, workers: int, options: ScalingBenchmark) -> Iterator[Exchange]:
    """The layout, with each size of its FC groups."""
    if "fc_parallel" not in layout_fields(layout, 1):
        yield exchange_of(layout_fields(layout, 1))
        return
    for group in FC_GROUPS:
        if workers % group == 0:
            yield exchange_of(layout_fields(layout, group), feature_bytes=FEATURE_BYTES[options.gpu_precision])


@dataclass(frozen=True)
class Published:
    """A measured efficiency of others, and the model's for the same setting: VGG-16, fp32 gradients, data parallel."""

    who: str
    gpus: int
    gpus_per_node: int
    gbits: float
    images: int
    gpu_rate: float
    measured: float
    modelled: float = 0.0


# Horovod, docs/benchmarks and README: servers with 4 Pascal GPUs, RoCE at 25 Gbit/s. The images/s of one P100 are from
# TensorFlow's benchmark page (May 2017, synthetic images, batches of 64), which used the same script; the batch is that
# of the command on Horovod's page. Bagua, tutorials/benchmark: servers with 8 V100, TCP, batches of 32; read off its bar
# charts (linear scaling: 29,300 images/s with 128 GPUs).
PUBLISHED = (
    Published("Horovod, P100", 128, 4, 25, 64, 154.0, 0.79),
    Published("Horovod, P100", 512, 4, 25, 64, 154.0, 0.68),
    Published("DDP (Bagua's comparison), V100", 128, 8, 10, 32, 229.0, 0.155),
    Published("DDP (Bagua's comparison), V100", 128, 8, 100, 32, 229.0, 0.41),
)


def published() -> list[Published]:
    """The published figures with the model's. Rings only, as their NCCL had."""
    return [replace(figure, modelled=_modelled(figure)) for figure in PUBLISHED]


def _modelled(figure: Published) -> float:
    local = NVLINK if figure.gpus_per_node == 8 else PCIE
    cluster = Cluster(figure.gpus, figure.gbits * 1e9 / 8, figure.gpus_per_node, local)
    alone = compute(figure.gpu_rate, figure.images)
    done = step(describe("D", 224), Exchange(), alone, figure.images, cluster, GPU_CONSTANTS)
    return alone.step_s / done.seconds
