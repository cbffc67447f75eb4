"""Trained nets, whatever file they come in: with their preprocessing, so that nobody has to remember it.

`load_net` reads a run or checkpoint of this project; an exported file (`python -m vgg_dist.export`), which says itself what
its net is and takes; and, where the format is told, weights of others:

- torchvision: a state dict of one of torchvision's eight VGGs, or `torchvision://VGG19_Weights.IMAGENET1K_V1` by name.
- caffe: the authors' released D and E as converted for PyTorch (keys as torchvision's, of either numbering of the FC
  layers), which take BGR. conv1_1's input channels are put in RGB order, so that every net here takes RGB.

What other tools wrap around a net's weights is taken off (`weight_files`). Pickled files are read with `weights_only=True`:
nothing that is read here can run code.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgg_dist.checkpoint import CONFIG, local_checkpoint, read_description, read_weights
from vgg_dist.models import ConvNet, build_model
from vgg_dist.specs import MODELS
from vgg_dist.storage import absolute
from vgg_dist.weight_files import METADATA_KEY as METADATA_KEY
from vgg_dist.weight_files import SUFFIXES, local_file, one_line, plain_weights, read_weights_file, unwrap

FORMATS = ("torchvision", "caffe", "safetensors")
TORCHVISION_URL = "torchvision://"
TORCHVISION_NETS = {
    (arch, batch_norm): name + ("_bn" if batch_norm else "")
    for arch, name in {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}.items()
    for batch_norm in (False, True)
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of weights that do not say it themselves."""

    nets: tuple[tuple[str, bool], ...]
    """Those that there are: keys of TORCHVISION_NETS."""
    mean: tuple[float, ...]
    """Grey levels of 255, RGB."""
    std: tuple[float, ...]
    """Grey levels of 255, RGB."""
    train_scale: tuple[int, int] | None
    """The S of the training; None: it was done in another way."""
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
    # The authors' released nets are those of the jittered training (paper, section 3.1).
    "caffe": Origin(
        nets=(("D", False), ("E", False)),
        mean=(123.68, 116.779, 103.939),
        std=(1.0, 1.0, 1.0),
        train_scale=(256, 512),
        bgr=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class NetDescription:
    """What a net is and takes: everything but its weights. As JSON it travels in an exported file."""

    name: str
    """For people: of the run, the file or torchvision's weights."""
    arch: str
    batch_norm: bool
    head: str
    image_size: int
    """Side of the square input that the FC form takes, pixels."""
    num_classes: int
    train_scale: tuple[int, int] | None
    """The S it was trained at, a range; None: not known."""
    class_names: list[str] | None
    """In the order of the logits; None where the weights carry none."""
    mean: tuple[float, ...]
    """Subtracted from each channel (RGB, or one of grey), grey levels of 255."""
    std: tuple[float, ...]
    """Divides each channel after that, grey levels of 255."""
    class_labels: list[str] | None = None
    """The classes in words, for people, where `class_names` are not that; not unique (ImageNet has two cranes)."""

    def to_json(self) -> str:
        """On one line."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(NetDescription)})

    @classmethod
    def from_json(cls, text: str) -> NetDescription:
        """The inverse of `to_json`. TypeError, LookupError or ValueError if it is not one."""
        values = json.loads(text)
        if values["train_scale"] is not None:
            low, high = values["train_scale"]
            values["train_scale"] = (int(low), int(high))
        if values["class_names"] is not None:
            values["class_names"] = [str(name) for name in values["class_names"]]
        values |= {field: tuple(float(level) for level in values[field]) for field in ("mean", "std")}
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class TrainedNet(NetDescription):
    """A trained net and everything that is needed to use it."""

    digest: str
    """SHA-256 over the names, types, shapes and values of the state dict, hex. Preprocessing is not part of it."""
    model: ConvNet
    """On the CPU, fp32, in evaluation mode."""
    data: str | None = None
    """The --data of its training; None: not known."""


def load_net(location: str, weights_format: str | None = None) -> TrainedNet:
    """The net at a location: a run's folder or checkpoint, a weights file (paths or URLs), or torchvision's by name.

    `weights_format`, one of FORMATS, is for files that do not say themselves what they are; where checkpoints and exported
    files do, it changes nothing. ValueError, one line that names the file and what is allowed, if there is none, it is
    damaged, it is of no known net, its tensors are not that net's, or it holds more than weights.
    """
    if weights_format is not None and weights_format not in FORMATS:
        raise ValueError(f"--weights-format {weights_format} is unknown; allowed: {', '.join(FORMATS)}")
    if location.startswith(TORCHVISION_URL):
        return _load_by_name(location)
    path = absolute(location)
    if path.endswith(SUFFIXES) or Path(path).is_file():
        with local_file(location) as file:
            return _load_file(file, location, weights_format)
    with local_checkpoint(location, "net") as folder:
        config, class_names = read_description(folder)
        spec, scale = MODELS[config.arch], config.train_scale
        description = NetDescription(
            name=config.name or Path(location).name,
            arch=config.arch,
            batch_norm=config.batch_norm,
            head=config.head,
            image_size=config.image_size or spec.image_size,
            num_classes=len(class_names),
            train_scale=None if scale is None else (scale[0], scale[-1]),
            class_names=class_names,
            mean=spec.pixel_mean,
            std=spec.pixel_std,
        )
        return replace(_assemble(location, read_weights(folder), description), data=config.data)


def _load_file(file: Path, location: str, weights_format: str | None) -> TrainedNet:
    """The net in a weights file on this machine; `location` is what the user calls it."""
    content, description = read_weights_file(file, location)
    if description is not None:
        try:
            parsed = NetDescription.from_json(description)
        except (TypeError, LookupError, ValueError) as error:
            raise ValueError(f"{location}: the description of its net is damaged: {one_line(error)}") from error
        return _assemble(location, plain_weights(location, content), parsed)
    if weights_format in ORIGINS:
        return _load_foreign(location, unwrap(location, content), ORIGINS[weights_format], file.stem)
    # A checkpoint's file is of no use alone, but what it lacks lies beside it.
    other = f"give the folder {file.parent}" if (file.parent / CONFIG).exists() else "give a run's folder, an exported file"
    raise ValueError(f"{location}: does not say what its net is and takes; {other} or --weights-format torchvision or caffe")


def _load_by_name(location: str) -> TrainedNet:
    """One of torchvision's own, downloaded or from its cache."""
    name = location.removeprefix(TORCHVISION_URL)
    allowed = [f"{net.upper()}_Weights.IMAGENET1K_V1" for net in TORCHVISION_NETS.values()]
    if name not in allowed:
        raise ValueError(f"{location}: no such weights; allowed after {TORCHVISION_URL}: {', '.join(allowed)}")
    import torchvision  # here: it takes a second, and no other weights need it

    entry = torchvision.models.get_weight(name)
    try:
        weights = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise ValueError(f"{location}: cannot be downloaded from {entry.url}: {error}") from error
    except (RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise ValueError(f"{location}: is damaged in {torch.hub.get_dir()}: {one_line(error)}") from error
    return _load_foreign(location, weights, ORIGINS["torchvision"], name, entry.meta["categories"])


def _load_foreign(
    where: str, weights: dict[str, Tensor], origin: Origin, name: str, class_labels: list[str] | None = None
) -> TrainedNet:
    """Weights of others, whose net is known by their keys and shapes."""
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
    return _assemble(where, weights, description)


def _as_torchvision_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the keys of today's torchvision, where they are of an earlier one.

    Until 2017 its dropout came before the FC layers, which the widely used conversions of the authors' nets still show.
    Batch norms did not count their batches until 2018, as in the files that torchvision gives out.
    """
    if "classifier.1.weight" in weights and "classifier.0.weight" not in weights:
        renamed = {"classifier.1.": "classifier.0.", "classifier.4.": "classifier.3."}
        weights = {renamed.get(key[:13], key[:13]) + key[13:]: value for key, value in weights.items()}
    counts = [key.replace("running_var", "num_batches_tracked") for key in weights if key.endswith(".running_var")]
    return {count: torch.tensor(0) for count in counts} | weights


def _recognise(where: str, weights: Mapping[str, Tensor], nets: Iterable[tuple[str, bool]]) -> dict[str, Any]:
    """Which of the nets has these weights, as arguments of `build_model`. ValueError if none has, or they are not whole."""
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
        differences = _differences(expected, weights)
        if 2 * len(differences) < len(expected):
            candidates.append((differences, net))
    if not candidates:
        found = ", ".join(f"{key} {tuple(value.shape)}" for key, value in list(weights.items())[:4]) or "no tensors"
        raise ValueError(
            f"{where}: is not the state dict of a known net; allowed: {allowed}, with features.0.weight (64, 3, 3, 3),"
            f" features.0.bias (64,), ..., classifier.6.bias; found: {found}{', ...' if len(weights) > 4 else ''}"
        )
    differences, net = min(candidates, key=lambda candidate: len(candidate[0]))
    if differences:
        name = TORCHVISION_NETS[net["arch"], net["batch_norm"]]
        raise ValueError(f"{where}: is near to {name}, but {_some(differences)}; allowed: {allowed}")
    return net


def _differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected or of another shape, in words."""
    wrong = [
        f"{key} is {'missing' if key not in weights else f'{tuple(weights[key].shape)}, not {tuple(value.shape)}'}"
        for key, value in expected.items()
        if key not in weights or weights[key].shape != value.shape
    ]
    return wrong + [f"{key} is unexpected" for key in weights if key not in expected]


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _assemble(where: str, weights: Mapping[str, Tensor], net: NetDescription) -> TrainedNet:
    """The net with these weights. ValueError, one line that begins with `where`, if they do not belong together."""
    try:
        with torch.device("meta"):
            sizes = {"num_classes": net.num_classes, "image_size": net.image_size}
            model = build_model(net.arch, batch_norm=net.batch_norm, head=net.head, **sizes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    expected = model.state_dict()
    if differences := _differences(expected, weights):
        raise ValueError(f"{where}: these are not the weights of its net, {net.arch}: {_some(differences)}")
    if net.class_names is not None and len(net.class_names) != net.num_classes:
        raise ValueError(f"{where}: has {len(net.class_names)} class names for {net.num_classes} classes")
    if not len(net.mean) == len(net.std) == MODELS[net.arch].in_channels:
        raise ValueError(f"{where}: mean and std must have {MODELS[net.arch].in_channels} values, not {net.mean}, {net.std}")
    # Copies: tensors of a mapped file lie at any address, and kernels round by alignment. Equal digests give equal logits.
    tensors = {
        key: value.to(expected[key].dtype, copy=True, memory_format=torch.contiguous_format)
        for key, value in weights.items()
    }
    for key, value in tensors.items():
        if not value.sum().isfinite():  # one pass without a mask in memory; what is not finite stays so in a sum
            raise ValueError(f"{where}: {key} has values that are not finite: no whole trained net")
    model.load_state_dict(tensors, assign=True)
    return TrainedNet(**vars(net), digest=weights_digest(tensors), model=model.eval())


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, hex, over the names, types, shapes and values of tensors on the CPU, in whatever order they are given."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).numpy().data)
    return digest.hexdigest()
