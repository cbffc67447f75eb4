"""The settings of vgg_dist.visualize, one dataclass for each kind of picture."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from pipelines.paths import is_remote
from vgg_dist.config.base import LAST, check_checkpoint
from vgg_dist.config.bounds import AtLeast, MoreThan, check_bounds
from vgg_dist.config.evaluate import EvalConfig
from vgg_dist.config.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PictureFlags:
    """Where the pictures go."""

    output: str = "pictures"
    """Folder for the page and its pictures, on this machine."""

    def check(self) -> None:
        """ValueError, one line that names the flag, for a value not allowed."""
        check_bounds(self)
        if is_remote(self.output):
            raise ValueError(f"--output {self.output}: must be a folder on this machine; --log keeps pictures elsewhere")
        if os.path.exists(self.output) and not os.path.isdir(self.output):
            raise ValueError(f"--output {self.output}: is a file; give a folder")


@dataclass(frozen=True, kw_only=True)
class WeightsFlags(PictureFlags, ABC):
    """How nets are read, and whether their records get the pictures."""

    checkpoint: str = LAST
    """Of a run: last, best (by validation error), or the number of a step."""
    weights_format: Literal["torchvision", "caffe", "safetensors"] | None = None
    """What a weights file is, where it does not say it itself."""
    log: bool = True
    """Log page and pictures to the MLflow run of a net that is a run's folder and has one."""
    tracking_uri: str | None = None
    """MLflow server of that run. Default: the one that the run was recorded on."""

    def check(self) -> None:
        """As of PictureFlags."""
        super().check()
        check_checkpoint(self.checkpoint)

    @property
    @abstractmethod
    def locations(self) -> tuple[str, ...]:
        """Where the nets are."""

    def evaluation(self) -> EvalConfig:
        """The nets, and the images if there are any, as of vgg_dist.evaluate."""
        images = {name: getattr(self, name) for name in ("data", "class_names") if hasattr(self, name)}
        return EvalConfig(
            nets=self.locations, checkpoint=self.checkpoint, weights_format=self.weights_format, **images
        ).resolved()


@dataclass(frozen=True, kw_only=True)
class NetFlags(WeightsFlags):
    """Which net is looked into."""

    net: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NET")]
    """A run's folder, a checkpoint, a weights file, or torchvision://VGG16_Weights.IMAGENET1K_V1."""

    @property
    def locations(self) -> tuple[str, ...]:
        """NET alone."""
        return (self.net,)


@dataclass(frozen=True, kw_only=True)
class DeconvnetPictures(NetFlags):
    """What each map of a layer answers to: its nine strongest activations over a data set, projected back to the pixels by
    the deconvnet, beside the image patches."""

    layers: tuple[str, ...] = ()
    """Layers, such as conv3_3 pool4, or all. Default: the last convolution before each pool."""
    maps: tuple[int, ...] = ()
    """Numbers of the maps of each layer, from 0. Default: --num-maps of those that answer to nine images."""
    num_maps: Annotated[int, AtLeast(1)] = 12
    """How many maps of each layer, at equal distances."""
    data: str | None = None
    """Folder or URL with val/, or a folder of images. Default: the data that the net was trained on."""
    images: Annotated[int, AtLeast(1)] = 1000
    """How many of its images are searched, at equal distances."""


@dataclass(frozen=True, kw_only=True)
class FilterPictures(WeightsFlags):
    """The filters of the first layer, and how many of them are dead or respond to frequencies that alias."""

    nets: tyro.conf.Positional[tuple[str, ...]]
    """One or several nets, which are compared: runs, checkpoints, weights files."""

    @property
    def locations(self) -> tuple[str, ...]:
        """All nets."""
        return self.nets

    def check(self) -> None:
        """As of PictureFlags."""
        super().check()
        if not self.nets:
            raise ValueError("filters: no net given; name one or several runs, checkpoints or weights files")


@dataclass(frozen=True, kw_only=True)
class OcclusionPictures(NetFlags):
    """The posterior of the true class, and the strongest map, while a grey square covers parts of the image."""

    layer: str | None = None
    """Layer of the map. Default: the last convolution."""
    data: str | None = None
    """Folder or URL with val/, or a folder of images, whose most probable classes are taken. Default: the data that the net
    was trained on."""
    class_names: str | None = None
    """File with one class name a line, in the order of the net's outputs, for weights that record none."""
    images: Annotated[int, AtLeast(1)] = 6
    """How many of its images, at equal distances."""
    square: Annotated[int | None, AtLeast(1)] = None
    """Side of the square, pixels. Default: 2/9 of the image, as of Zeiler & Fergus."""
    step: Annotated[int | None, AtLeast(1)] = None
    """Distance between its positions, pixels. Default: a sixth of the square."""


@dataclass(frozen=True, kw_only=True)
class ReceptiveFieldPictures(NetFlags):
    """What each layer sees of the image: receptive field, stride and jump; three 3x3 layers beside one 7x7; and
    for a trained net which pixels really count."""

    net: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NET")]
    """A run's folder, a checkpoint, a weights file; or an architecture such as E, for the table alone."""
    layers: tuple[str, ...] = ()
    """Layers whose effective receptive fields are measured. Default: the last convolution before each pool."""
    data: str | None = None
    """Folder or URL with val/, or a folder of images. Default: the data that the net was trained on."""
    images: Annotated[int, AtLeast(1)] = 64
    """How many of its images the effective receptive field is the mean over, at equal distances."""


@dataclass(frozen=True, kw_only=True)
class SummaryPictures(NetFlags):
    """A table of a net's layers: shapes, parameters, multiply-adds, memory of the activations."""

    net: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NET")]
    """A run's folder, a checkpoint, a weights file; or an architecture such as E, with the flags below."""
    batch_norm: bool = False
    """With batch normalisation; for an architecture."""
    head: Literal["fc", "gap", "linear"] = "fc"
    """Classifier; for an architecture."""
    width: Annotated[float, MoreThan(0)] = 1.0
    """Factor for the channels of every convolution of a VGG; for an architecture."""
    image_size: int | None = None
    """Side of the image, pixels; for an architecture. Default: its own."""
    num_classes: Annotated[int, AtLeast(1)] = 1000
    """Number of classes; for an architecture."""


@dataclass(frozen=True, kw_only=True)
class AugmentationPictures(PictureFlags):
    """What the training's scale, crop, flip and colour shift make of pictures. Takes all flags of vgg_dist.train."""

    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """The training whose augmentation is shown."""
    pictures: tuple[str, ...] = ()
    """Pictures to augment: files or folders of them. Default: images of --data."""
    images: Annotated[int, AtLeast(1)] = 4
    """How many images of --data, at equal distances."""
    draws: Annotated[int, AtLeast(1)] = 6
    """How often each is augmented in each way."""

    def check(self) -> None:
        """As of PictureFlags."""
        super().check()
        self.train.resolved()


Pictures = (
    Annotated[DeconvnetPictures, tyro.conf.subcommand("deconvnet")]
    | Annotated[FilterPictures, tyro.conf.subcommand("filters")]
    | Annotated[OcclusionPictures, tyro.conf.subcommand("occlusion")]
    | Annotated[ReceptiveFieldPictures, tyro.conf.subcommand("receptive-field")]
    | Annotated[AugmentationPictures, tyro.conf.subcommand("augmentations")]
    | Annotated[SummaryPictures, tyro.conf.subcommand("summary")]
)
"""One kind of pictures with its settings."""
