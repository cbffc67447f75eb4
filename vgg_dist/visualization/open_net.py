"""The net of `summary` and `receptive-field`: a trained one from a file, or an architecture without weights."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from pipelines.paths import is_remote
from vgg_dist.config.names import known_arch
from vgg_dist.config.visualize import NetFlags, ReceptiveFieldPictures, SummaryPictures
from vgg_dist.evaluation.open import open_net
from vgg_dist.models.build import build_model
from vgg_dist.models.specs import MODELS
from vgg_dist.models.vgg import ConvNet
from vgg_dist.weights.net import TrainedNet


@dataclass(frozen=True)
class DescribedNet:
    """A net, which may have no weights: then it is on the meta device."""

    name: str
    words: str
    """For people: what it is, and where its weights come from."""
    model: ConvNet
    image_size: int
    trained: TrainedNet | None


def open_trained(options: NetFlags) -> TrainedNet:
    """The net of NET with its weights. ValueError, one line, for an architecture without weights, and as `open_net`."""
    if options.net in MODELS and not os.path.exists(options.net):
        raise ValueError(f"NET {options.net}: is an architecture; give a trained net: a run's folder, or a weights file")
    config = options.evaluation()
    return open_net(config, config.nets[0])


def describe_net(options: ReceptiveFieldPictures | SummaryPictures) -> DescribedNet:
    """The net of NET. ValueError or OSError, one line, for a name that is neither a file nor an architecture."""
    known = known_arch(options.net)
    arch = known.arch if known else options.net
    if arch in MODELS and not os.path.exists(options.net):
        return _without_weights(arch, options, known is not None and known.batch_norm)
    if not is_remote(options.net) and not os.path.exists(options.net):
        raise ValueError(f"NET {options.net}: is neither a file or folder nor an architecture: {', '.join(MODELS)}")
    _refuse_flags(options)
    net = open_trained(options)
    words = f"{net.arch}{' with batch norm' * net.batch_norm}, {net.image_size} pixels"
    return DescribedNet(net.name, f"{words}{f'; {net.origin}' if net.origin else ''}.", net.model, net.image_size, net)


def _without_weights(arch: str, options: NetFlags, batch_norm: bool) -> DescribedNet:
    size, head, width, num_classes = None, "fc", 1.0, 1000
    if isinstance(options, SummaryPictures):
        batch_norm = batch_norm or options.batch_norm
        size, head, width, num_classes = options.image_size, options.head, options.width, options.num_classes
    size = MODELS[arch].image_size if size is None else size
    with torch.device("meta"):
        model = build_model(arch, batch_norm=batch_norm, head=head, width=width, image_size=size, num_classes=num_classes)
    return DescribedNet(
        f"{arch}-bn" if batch_norm else arch, f"{arch}{' with batch norm' * batch_norm}, {size} pixels.", model, size, None
    )


def _refuse_flags(options: NetFlags) -> None:
    """ValueError, one line, for flags of an architecture beside a net that has its own."""
    if isinstance(options, SummaryPictures):
        given = {
            "--batch-norm": options.batch_norm,
            "--head": options.head != "fc",
            "--width": options.width != 1,
            "--image-size": options.image_size,
        }
        for flag in [flag for flag, value in given.items() if value]:
            raise ValueError(f"{flag}: is for an architecture, such as E; {options.net} has its own")
