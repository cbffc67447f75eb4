"""Loads weights that were trained elsewhere: torchvision's, and the authors' own, converted for PyTorch.

Such files do not say which net they are of: it is recognised by keys and shapes.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.progress import show_bars
from vgg_dist.models.build import build_model
from vgg_dist.weights.files import one_line
from vgg_dist.weights.net import NetDescription, TrainedNet, assemble, differences, first_few

TORCHVISION_URL = "torchvision://"
TORCHVISION_NETS = {
    (arch, batch_norm): name + ("_bn" if batch_norm else "")
    for arch, name in {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}.items()
    for batch_norm in (False, True)
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What weights of one origin have in common and do not state themselves."""

    nets: tuple[tuple[str, bool], ...]
    """The nets that there are, as keys of TORCHVISION_NETS."""
    mean: tuple[float, ...]
    """Grey levels of 255, RGB."""
    std: tuple[float, ...]
    """Grey levels of 255, RGB."""
    train_scale: tuple[int, int] | None
    """The training scale S; None: trained with another kind of crop."""
    bgr: bool
    """Whether conv1_1 takes blue first."""


ORIGINS = {
    "torchvision": Origin(
        nets=tuple(TORCHVISION_NETS),
        mean=tuple(255 * level for level in (0.485, 0.456, 0.406)),
        std=tuple(255 * level for level in (0.229, 0.224, 0.225)),
        train_scale=None,
        bgr=False,
    ),
    # The authors released the nets trained with scale jittering (paper, section 3.1).
    "caffe": Origin(
        nets=(("D", False), ("E", False)),
        mean=(123.68, 116.779, 103.939),
        std=(1.0, 1.0, 1.0),
        train_scale=(256, 512),
        bgr=True,
    ),
}


def load_by_name(location: str) -> TrainedNet:
    """A net of torchvision by the name of its weights, downloaded or from its cache. ValueError, one line, if that fails."""
    name = location.removeprefix(TORCHVISION_URL)
    allowed = [f"{net.upper()}_Weights.IMAGENET1K_V1" for net in TORCHVISION_NETS.values()]
    if name not in allowed:
        raise ValueError(f"{location}: no such weights; allowed after {TORCHVISION_URL}: {', '.join(allowed)}")
    import torchvision  # slow to import, and no other weights need it

    entry = torchvision.models.get_weight(name)
    try:
        weights = entry.get_state_dict(progress=show_bars(), check_hash=True, weights_only=True)
    except OSError as error:
        raise ValueError(f"{location}: cannot be downloaded from {entry.url}: {error}") from error
    except (RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise ValueError(f"{location}: is damaged in {torch.hub.get_dir()}: {one_line(error)}") from error
    return load_foreign(location, weights, ORIGINS["torchvision"], name, entry.meta["categories"])


def load_foreign(
    where: str, weights: dict[str, Tensor], origin: Origin, name: str, class_labels: list[str] | None = None
) -> TrainedNet:
    """The net of a state dict from elsewhere. ValueError, one line, if it is of none of `origin.nets`."""
    weights = _as_torchvision_names(weights)
    net = _recognise(where, weights, origin.nets)
    if origin.bgr:
        weights["features.0.weight"] = weights["features.0.weight"].flip(1)
    description = NetDescription(
        **net,
        name=name,
        head="fc",
        train_scale=origin.train_scale,
        class_names=None,
        class_labels=class_labels,
        mean=origin.mean,
        std=origin.std,
    )
    return assemble(where, weights, description)


def _as_torchvision_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the keys of today's torchvision.

    Until 2017 dropout came before the FC layers, which changed their numbers; widely used conversions of the authors' nets
    have these. Until 2018 batch norms had no num_batches_tracked; the files that torchvision distributes still have none.
    """
    if "classifier.1.weight" in weights and "classifier.0.weight" not in weights:
        renamed = {"classifier.1.": "classifier.0.", "classifier.4.": "classifier.3."}
        weights = {renamed.get(key[:13], key[:13]) + key[13:]: value for key, value in weights.items()}
    counts = [key.replace("running_var", "num_batches_tracked") for key in weights if key.endswith(".running_var")]
    return {count: torch.tensor(0) for count in counts} | weights


def _recognise(where: str, weights: Mapping[str, Tensor], nets: Iterable[tuple[str, bool]]) -> dict[str, Any]:
    """The net of these weights, as arguments of `build_model`. ValueError if it is none of `nets`, or a layer is missing."""
    first, last = weights.get("classifier.0.weight"), weights.get("classifier.6.weight")
    sizes: dict[str, Any] = {
        "num_classes": 1000 if last is None or last.ndim != 2 else max(1, len(last)),
        "image_size": 224 if first is None or first.ndim != 2 else 32 * max(1, math.isqrt(first.shape[1] // 512)),
    }
    allowed = ", ".join(TORCHVISION_NETS[net] for net in nets)
    candidates: list[tuple[list[str], dict[str, Any]]] = []
    for arch, batch_norm in nets:
        net = sizes | {"arch": arch, "batch_norm": batch_norm}
        with torch.device("meta"):
            expected = build_model(**net).state_dict()
        wrong = differences(expected, weights)
        if 2 * len(wrong) < len(expected):
            candidates.append((wrong, net))
    if not candidates:
        found = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(weights.items())[:4]) or "no tensors"
        raise ValueError(
            f"{where}: is not the state dict of a known net; allowed: {allowed}, with features.0.weight (64, 3, 3, 3),"
            f" features.0.bias (64,), ..., classifier.6.bias; found: {found}{', ...' if len(weights) > 4 else ''}"
        )
    wrong, net = min(candidates, key=lambda candidate: len(candidate[0]))
    if wrong:
        name = TORCHVISION_NETS[net["arch"], net["batch_norm"]]
        raise ValueError(f"{where}: resembles {name}, but {first_few(wrong)}; allowed: {allowed}")
    return net
