"""TrainedNet: a net with everything needed to use it, assembled from a description and a state dict."""

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
    """A net's architecture, preprocessing and classes: everything but its weights. Exported files have it as JSON."""

    name: str
    """For people: the name of the run, the file or torchvision's weights."""
    arch: str
    batch_norm: bool
    head: str
    image_size: int
    """Side of the square input that the FC form takes, pixels."""
    num_classes: int
    train_scale: tuple[int, int] | None
    """The training scale S, as a range; None: not known."""
    class_names: list[str] | None
    """In the order of the logits; None if the weights have none."""
    mean: tuple[float, ...]
    """Subtracted from each channel (RGB, or one of grey), grey levels of 255."""
    std: tuple[float, ...]
    """Divides each channel after that, grey levels of 255."""
    class_labels: list[str] | None = None
    """Readable labels of the classes, if `class_names` are not readable; not unique (ImageNet has two cranes)."""
    checkpoint: str | None = None
    """For people: which checkpoint of its run; None: not from a run, or written by an older version."""
    width: float = 1.0
    """Factor for the channels of the convolutions."""

    def to_json(self) -> str:
        """The description as JSON on one line."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(NetDescription)})

    @classmethod
    def from_json(cls, text: str) -> NetDescription:
        """Parses what `to_json` returned. TypeError, LookupError or ValueError for anything else."""
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
    """A trained net, its description, and where it came from."""

    digest: str
    """SHA-256 over the names, types, shapes and values of the state dict, hex. Preprocessing is not part of it."""
    model: ConvNet
    """On the CPU, fp32, in evaluation mode."""
    data: str | None = None
    """--data of its training; None: not known."""
    label: str = ""
    """Such as "best, step 126", if it is not the last net of its run or a checkpoint was named; else empty."""
    hint: str = ""
    """A sentence if its run has a better checkpoint; else empty."""

    @property
    def origin(self) -> str:
        """For people: run, checkpoint, and whether a better one exists; empty if the checkpoint is not known."""
        hint = f"; {self.hint}: --checkpoint best" if self.hint else ""
        return "" if self.checkpoint is None else f"{self.name}: {self.checkpoint}{hint}"


def differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """For people: the keys that are missing, unexpected or of another shape."""
    wrong = [
        f"{key} is {'missing' if key not in weights else f'{tuple(weights[key].shape)}, not {tuple(value.shape)}'}"
        for key, value in expected.items()
        if key not in weights or weights[key].shape != value.shape
    ]
    return wrong + [f"{key} is unexpected" for key in weights if key not in expected]


def first_few(words: list[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def assemble(where: str, weights: Mapping[str, Tensor], net: NetDescription) -> TrainedNet:
    """The net with these weights. ValueError, one line that begins with `where`, if weights and description do not agree."""
    try:
        with torch.device("meta"):
            model = build_model(
                net.arch,
                num_classes=net.num_classes,
                batch_norm=net.batch_norm,
                head=net.head,
                image_size=net.image_size,
                width=net.width,
            )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    expected = model.state_dict()
    if wrong := differences(expected, weights):
        raise ValueError(f"{where}: these are not the weights of its net, {net.arch}: {first_few(wrong)}")
    if net.class_names is not None and len(net.class_names) != net.num_classes:
        raise ValueError(f"{where}: has {len(net.class_names)} class names for {net.num_classes} classes")
    if not len(net.mean) == len(net.std) == MODELS[net.arch].in_channels:
        raise ValueError(f"{where}: mean and std must have {MODELS[net.arch].in_channels} values, not {net.mean}, {net.std}")
    # Copies: tensors of a memory-mapped file have any alignment, on which rounding depends. So equal digests give equal
    # logits.
    tensors = {
        key: value.to(expected[key].dtype, copy=True, memory_format=torch.contiguous_format)
        for key, value in weights.items()
    }
    for key, value in tensors.items():
        if not value.sum().isfinite():  # one pass, no mask in memory; a sum with NaN or inf in it is not finite
            raise ValueError(f"{where}: {key} has values that are not finite: the weights are not usable")
    model.load_state_dict(tensors, assign=True)
    return TrainedNet(**vars(net), digest=weights_digest(tensors), model=model.eval())


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, hex, over names, dtypes, shapes and values of tensors on the CPU; their order does not matter."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).numpy().data)
    return digest.hexdigest()
