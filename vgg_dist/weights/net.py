"""A trained net with all that is needed to use it, and how one is put together from a description and tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vgg_dist.models.build import build_model
from vgg_dist.models.specs import MODELS
from vgg_dist.models.vgg import ConvNet


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
    checkpoint: str | None = None
    """Which checkpoint of its run it is, in words; None: not of a run, or written by an earlier version."""

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
    label: str = ""
    """Such as "best, step 126": where it is not the last net of its run, or a checkpoint was named."""
    hint: str = ""
    """That its run has a better checkpoint, if so."""

    @property
    def origin(self) -> str:
        """For people: which checkpoint of which run it is, and whether a better one is there; empty if that is not known."""
        hint = f"; {self.hint}: --checkpoint best" if self.hint else ""
        return "" if self.checkpoint is None else f"{self.name}: {self.checkpoint}{hint}"


def differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected or of another shape, in words."""
    wrong = [
        f"{key} is {'missing' if key not in weights else f'{tuple(weights[key].shape)}, not {tuple(value.shape)}'}"
        for key, value in expected.items()
        if key not in weights or weights[key].shape != value.shape
    ]
    return wrong + [f"{key} is unexpected" for key in weights if key not in expected]


def some(words: list[str]) -> str:
    """The first few, and how many more there are."""
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def assemble(where: str, weights: Mapping[str, Tensor], net: NetDescription) -> TrainedNet:
    """The net with these weights. ValueError, one line that begins with `where`, if they do not belong together."""
    try:
        with torch.device("meta"):
            sizes = {"num_classes": net.num_classes, "image_size": net.image_size}
            model = build_model(net.arch, batch_norm=net.batch_norm, head=net.head, **sizes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    expected = model.state_dict()
    if wrong := differences(expected, weights):
        raise ValueError(f"{where}: these are not the weights of its net, {net.arch}: {some(wrong)}")
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
