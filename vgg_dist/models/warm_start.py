"""Starts a net from the weights of a shallower trained one (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vgg_dist.models.vgg import CONFIGS, VGG, ConvNet, conv_names, make_features

# The convolutions that the paper's deeper nets take from the trained A, beside its FC layers.
SHALLOW_CONVS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2")


@torch.no_grad()
def init_from_shallower(model: ConvNet, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Copies the layers of a trained net that fit into `model`; returns the keys copied. Other layers keep their values.

    Another VGG net gives its first four convolutions, matched by stage and position in the stage (conv1_1, conv2_1,
    conv3_1, conv3_2: paper section 3.1), and its FC layers. A net with the same convolutions (S=384 from S=256, or
    A-LRN from A) gives all of them. Batch normalisation goes with its convolution, running statistics included, where
    both nets have it. An FC layer is copied where its shape fits: the first one for the same image size, the last one
    for the same number of classes.

    Raises ValueError when the weights are of no known net, or nothing in them fits.
    """
    layers = _matching_convs(model, state_dict)
    layers |= {name: name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    copied = []
    for name, source_name in layers.items():
        tensors = model.get_submodule(name).state_dict()
        sources = {key: state_dict.get(f"{source_name}.{key}") for key in tensors}
        # A layer is copied as a whole or not at all, because a bias may fit where its weight does not.
        if all(source is not None and source.shape == tensors[key].shape for key, source in sources.items()):
            for key, tensor in tensors.items():
                tensor.copy_(state_dict[f"{source_name}.{key}"])
                copied.append(f"{name}.{key}")
    if not copied:
        raise ValueError("--init-from: no layer of these weights has the shape of its counterpart in the new network")
    return copied


def _matching_convs(model: ConvNet, state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """The convolutions and batch norms to copy: layer of `model` -> its counterpart in `state_dict`."""
    features = model.features
    if _feature_shapes(model.state_dict()) == _feature_shapes(state_dict):
        return {f"features.{name}": f"features.{name}" for name, _ in features.named_children()}
    source = _recognise(state_dict) if isinstance(model, VGG) else None
    if source is None:
        allowed = f"a network of {', '.join(CONFIGS)}" if isinstance(model, VGG) else type(model).__name__
        raise ValueError(f"--init-from: these are not weights that the new network can start from; allowed: {allowed}")
    own_convs, source_convs = conv_names(features), conv_names(source)
    own_shapes = [features[index].weight.shape for index in own_convs.values()]
    source_shapes = [source[index].weight.shape for index in source_convs.values()]
    layers: dict[str, str] = {}
    for conv in own_convs if own_shapes == source_shapes else SHALLOW_CONVS:
        if conv in own_convs and conv in source_convs:
            index, source_index = own_convs[conv], source_convs[conv]
            layers[f"features.{index}"] = f"features.{source_index}"
            if isinstance(features[index + 1], nn.BatchNorm2d) and isinstance(source[source_index + 1], nn.BatchNorm2d):
                layers[f"features.{index + 1}"] = f"features.{source_index + 1}"
    return layers


def _recognise(state_dict: Mapping[str, Tensor]) -> nn.Sequential | None:
    """The convolutional part, on the meta device, of the VGG net that these weights are of; None if they are of none."""
    shapes = _feature_shapes(state_dict)
    if "features.0.weight" not in shapes:
        return None
    width = shapes["features.0.weight"][0] / 64
    for arch in CONFIGS:
        for batch_norm in (False, True):
            with torch.device("meta"):
                features = make_features(arch, batch_norm=batch_norm, width=width)
            if _feature_shapes(features.state_dict(prefix="features.")) == shapes:
                return features
    return None


def _feature_shapes(state_dict: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state_dict.items() if key.startswith("features.")}
