"""The settings of vgg_dist.evaluate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pipelines.paths import absolute
from pipelines.pixels import MAX_PIXELS
from vgg_dist.config.base import LAST, Config, check_checkpoint, check_name, data_location, quarantine_list
from vgg_dist.config.bounds import AtLeast, at_least, check_bounds
from vgg_dist.config.scale_range import OptionalScaleFlag


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """Evaluate trained nets as the paper does, and print its tables beside ours."""

    nets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Nets to evaluate: runs, checkpoints, weights files, or torchvision://VGG19_Weights.IMAGENET1K_V1. Of several, the
    mean of the posteriors is evaluated too."""
    weights_format: Literal["torchvision", "caffe", "safetensors"] | None = None
    """Format of weights files that do not record it."""
    checkpoint: str = LAST
    """Which checkpoint of each run: last, best (by validation error, so optimistic on the validation images), or the number
    of a step. RUN/best in place of RUN takes the best of that run alone."""
    class_names: str | None = None
    """File with one class name a line, in the order of the net's outputs, for weights that record none. Not needed if the
    classes of the data are the numbers from 0, or ImageNet's WordNet ids."""
    train_scale: OptionalScaleFlag = None
    """Training scale of weights that do not record it, such as 256 or 256-512. It decides the test scales, and the row of
    the tables that the net is in."""

    data: str | None = None
    """Folder or URL with val/, as for training; or a folder of images. Default: the data of the first run."""
    labels: str | None = None
    """File with the class of each image of a folder of images, one a line: by name, or with --devkit by number."""
    devkit: str | None = None
    """ImageNet's ILSVRC2012_devkit_t12.tar.gz, which has the official class numbers, for --labels and --submission."""
    test_scales: Annotated[tuple[int, ...] | None, AtLeast(1)] = None
    """Test scales Q: smaller sides of the images, in pixels. Default: those that the paper's Tables 3 and 4 need."""
    views: tuple[Literal["dense", "crops", "center"], ...] = ("dense",)
    """What a net sees of an image: dense, the whole image; crops, 5 x 5 crops (both mirrored too); center, one crop."""
    report: bool = True
    """Print the tables of errors and write the report (HTML, Markdown, CSV, LaTeX) beside the posteriors and to MLflow."""
    submission: str | None = None
    """File to write for the ILSVRC test server: the five best classes of each of a folder of images. Needs --devkit."""
    predict: tuple[str, ...] = ()
    """Pictures to classify: files, folders, URLs, or - for standard input. Prints the five best classes of each, and does
    nothing else."""

    micro_batch: Annotated[int, AtLeast(1)] = 32
    """Crops that a worker handles at once; of whole images, as many as have the same number of pixels."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Number format of the matrix products: bf16 (autocast), tf32 (GPUs only), or fp32. auto: bf16 where the hardware
    multiplies bf16 matrices, otherwise fp32."""
    num_workers: Annotated[int | None, AtLeast(1)] = None
    """Evaluating processes. Default: one for each GPU of the cluster, or one if it has none."""
    max_pixels: Annotated[int, AtLeast(1)] = MAX_PIXELS
    """Images with more pixels than this are not decoded, and count as bad images."""
    quarantine: str | None = None
    """File or URL that lists images to leave out, as `pipelines.prepare check` writes it. The list quarantine.txt beside
    the data always counts."""
    loader_threads: Annotated[int | None, AtLeast(1)] = None
    """Threads that decode images, in each worker. Default: the worker's CPUs."""
    storage_path: str = "runs"
    """Folder or URL for the posteriors and the report. With several nodes, one that all of them can reach."""
    name: str = "evaluation"
    """Name of the evaluation, and of its folder in --storage-path. If it is there, what is missing is computed."""
    experiment: str = "vgg_dist"
    """MLflow experiment in which the evaluation is recorded."""
    tracking_uri: str | None = None
    """MLflow server. Default: an SQLite file in --storage-path."""

    def resolved(self) -> EvalConfig:
        """With absolute paths. ValueError, one line that names the flag, for a value not allowed."""
        config = dataclasses.replace(
            self,
            nets=tuple(net if net.startswith("torchvision://") else absolute(net) for net in self.nets),
            data=None if self.data is None else data_location(self.data),
            quarantine=quarantine_list(self.data, self.quarantine),
            storage_path=absolute(self.storage_path),
        )
        if not self.nets:
            raise ValueError("no net given: name one or several runs, checkpoints or weights files")
        check_bounds(self)
        if self.train_scale is not None:
            at_least("train_scale", self.train_scale.low, 1)
            at_least("train_scale", self.train_scale.high, self.train_scale.low, "S_min")
        if not self.views:
            raise ValueError("--views: at least one of dense, crops, center")
        if self.submission is not None and self.devkit is None:
            raise ValueError("--submission: needs --devkit, for the official numbers of the classes")
        check_checkpoint(self.checkpoint)
        self.refuse_masked()
        check_name(self.name, config.storage_path)
        return config
