"""The settings of vgg_dist.evaluate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import tyro

from pipelines.paths import absolute
from pipelines.pixels import MAX_PIXELS
from vgg_dist.config.base import LAST, Config, at_least, check_checkpoint, check_name, data_location, quarantine_list
from vgg_dist.config.scale_range import OptionalScaleFlag


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """Evaluate trained nets as the paper does, and print its tables beside ours."""

    nets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Runs (or checkpoints), weights files, or torchvision://VGG19_Weights.IMAGENET1K_V1; several are fused too."""
    weights_format: Literal["torchvision", "caffe", "safetensors"] | None = None
    """What the weights files are, where they do not say it themselves."""
    checkpoint: str = LAST
    """Of runs: last, best (by validation error; optimistic on the images that chose it), or the number of a step.
    RUN/best among the nets is the best of that run alone."""
    class_names: str | None = None
    """File with the classes of weights that carry none, one a line in the order of its outputs. Needed where
    the classes of the data are neither the numbers from 0 nor ImageNet's WordNet ids, of which the order is known."""
    train_scale: OptionalScaleFlag = None
    """Training scale of weights that do not record it, such as 256 or 256-512. It decides the test scales, and the row of
    the tables that the net is in."""

    data: str | None = None
    """Folder (or URL) as for training, of which val/ is taken; or a folder of images. Default: that of the first run."""
    labels: str | None = None
    """File with the class of each image of a folder of images, one a line, by name (with --devkit: by number)."""
    devkit: str | None = None
    """ILSVRC2012_devkit_t12.tar.gz: the official numbers of the classes, for --labels and --submission."""
    test_scales: tuple[int, ...] | None = None  # Q
    """Smallest sides Q of the images. Default: the paper's, all that its tables 3 and 4 need."""
    views: tuple[Literal["dense", "crops", "center"], ...] = ("dense",)
    """What a net sees: the whole image, 5 x 5 crops (both with the mirror image), or the central crop alone."""
    report: bool = True
    """Print the paper's tables and write them, as report.md and report.html, beside the posteriors and to MLflow."""
    submission: str | None = None
    """File for the ILSVRC test server: the five best classes of each image of a folder of images; needs --devkit."""
    predict: tuple[str, ...] = ()
    """Pictures: print the five best classes of each, and nothing else. Files, folders of them, URLs; - is standard input."""

    micro_batch: int = 32
    """Crops, or as many pixels of whole images, that a worker handles at once."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """bf16 autocast, or fp32. auto: bf16 where the hardware multiplies bf16 matrices."""
    num_workers: int | None = None
    """Evaluating processes. Default: one for each GPU of the cluster, or one where there is no GPU."""
    max_pixels: int = MAX_PIXELS
    """Images of more pixels are not decoded; bad images, that is."""
    quarantine: str | None = None
    """List (file or URL) of images to leave out besides those in quarantine.txt beside the data, as check was given it."""
    loader_threads: int | None = None
    """Threads that decode images, per worker. Default: the CPUs of a worker."""
    storage_path: str = "runs"
    """Folder or URL for the posteriors and the report; on several nodes one that all of them see."""
    name: str = "evaluation"
    """Name of the evaluation. The same --storage-path and --name again go on with it, with these nets or more."""
    experiment: str = "vgg_dist"
    """MLflow experiment."""
    tracking_uri: str | None = None
    """MLflow server. Default: an sqlite file in --storage-path."""

    def resolved(self) -> EvalConfig:
        """With absolute paths. ValueError, one line that names the flag, for what cannot be."""
        config = dataclasses.replace(
            self,
            nets=tuple(net if net.startswith("torchvision://") else absolute(net) for net in self.nets),
            data=None if self.data is None else data_location(self.data),
            quarantine=quarantine_list(self.data, self.quarantine),
            storage_path=absolute(self.storage_path),
        )
        if not self.nets:
            raise ValueError("no net given: name one or several runs, checkpoints or weights files")
        at_least("max_pixels", self.max_pixels, 1)
        for field in ("micro_batch", "num_workers", "loader_threads"):
            if (value := getattr(self, field)) is not None:
                at_least(field, value, 1)
        if self.train_scale is not None:
            at_least("train_scale", self.train_scale.low, 1)
            at_least("train_scale", self.train_scale.high, self.train_scale.low, "S_min")
        for scale in self.test_scales or ():
            at_least("test_scales", scale, 1)
        if not self.views:
            raise ValueError("--views: at least one of dense, crops, center")
        if self.submission is not None and self.devkit is None:
            raise ValueError("--submission: needs --devkit, for the official numbers of the classes")
        check_checkpoint(self.checkpoint)
        self.refuse_masked()
        check_name(self.name, config.storage_path)
        return config
