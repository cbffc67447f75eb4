"""The VGG family as a table, its heads, its dense form at test, and the start from a shallower trained net.

Paper sections 2 (configurations), 3.1 (initialisation) and 3.2 (testing), arXiv:1409.1556. Modules and state-dict
keys are laid out as torchvision's vgg11, 13, 16 and 19, so weights of A, B, D and E go both ways.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from vgg_dist.models.lrn import LocalResponseNorm

# Five stages, a 2x2 max-pool after each. A number is a 3x3 convolution of that many channels (stride 1, map size kept),
# @KxK another kernel size, "lrn" a local response normalisation. B-5x5 is the control net of the paper's section 4.1.
CONFIGS = {
    "A": "64 | 128 | 256 256 | 512 512 | 512 512",
    "A-LRN": "64 lrn | 128 | 256 256 | 512 512 | 512 512",
    "B": "64 64 | 128 128 | 256 256 | 512 512 | 512 512",
    "B-5x5": "64@5x5 | 128@5x5 | 256@5x5 | 512@5x5 | 512@5x5",
    "C": "64 64 | 128 128 | 256 256 256@1x1 | 512 512 512@1x1 | 512 512 512@1x1",
    "D": "64 64 | 128 128 | 256 256 256 | 512 512 512 | 512 512 512",
    "E": "64 64 | 128 128 | 256 256 256 256 | 512 512 512 512 | 512 512 512 512",
}

HEADS = ("fc", "gap", "linear")

# What the paper's deeper nets take from the trained A, beside the FC layers.
SHALLOW_CONVS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2")


def fc_head(in_features: int, num_classes: int, dropout: float) -> nn.Sequential:
    """The head of AlexNet and VGG: two layers of 4096, each with ReLU and dropout, and a linear layer to the logits."""
    return nn.Sequential(
        nn.Linear(in_features, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(4096, num_classes),
    )


class ConvNet(nn.Module):
    """What all networks here have in common: features (N, C, h, w), an optional average over space, a classifier.

    `map_size` is the side h = w of the features of an image of the size that the network was built for.
    """

    def __init__(self, features: nn.Sequential, avgpool: nn.Module, classifier: nn.Module, map_size: int) -> None:
        super().__init__()
        self.features = features
        self.avgpool = avgpool
        self.classifier = classifier
        self.map_size = map_size

    def forward(self, images: Tensor) -> Tensor:
        """Float images (N, C, H, W) to logits (N, num_classes); H = W as the net was built (gap head: any size)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


class VGG(ConvNet):
    """One network of CONFIGS for square images of `image_size` pixels, at least 32, with one of three heads.

    fc: the paper's 4096-4096-num_classes with dropout. gap: the average over space and one linear layer. linear: one
    linear layer on the flattened features. Dropout belongs to the fc head. With `batch_norm`, every convolution is
    followed by one.
    """

    def __init__(self, arch: str, *, num_classes: int, batch_norm: bool, head: str, image_size: int, dropout: float) -> None:
        map_size = image_size // 32
        in_features = 512 if head == "gap" else 512 * map_size**2
        super().__init__(
            features=make_features(arch, batch_norm=batch_norm),
            avgpool=nn.AdaptiveAvgPool2d(1) if head == "gap" else nn.Identity(),
            classifier=(fc_head(in_features, num_classes, dropout) if head == "fc" else nn.Linear(in_features, num_classes)),
            map_size=map_size,
        )


def make_features(arch: str, *, batch_norm: bool) -> nn.Sequential:
    """The convolutional part of a network of CONFIGS: images (N, 3, H, W) to features (N, 512, H // 32, W // 32)."""
    layers: list[nn.Module] = []
    in_channels = 3
    for stage in CONFIGS[arch].split("|"):
        for layer in stage.split():
            if layer == "lrn":
                layers.append(LocalResponseNorm())
                continue
            width, _, size = layer.partition("@")
            channels, kernel = int(width), int(size[:1] or 3)
            layers.append(nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2))
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
            in_channels = channels
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*layers)


def conv_names(features: nn.Sequential) -> dict[str, int]:
    """The paper's layer names ("conv3_1": first convolution of the third stage) and their indices in `features`."""
    names: dict[str, int] = {}
    stage, position = 1, 0
    for index, layer in enumerate(features):
        if isinstance(layer, nn.Conv2d):
            position += 1
            names[f"conv{stage}_{position}"] = index
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            stage, position = stage + 1, 0
    return names


def fully_convolutional(model: ConvNet) -> nn.Sequential:
    """The dense form for testing, paper section 3.2: larger images (N, C, H, W) to score maps (N, num_classes, h, w).

    The first FC layer becomes a convolution over map_size x map_size features (7x7 at 224), the others 1x1, so that
    position (y, x) holds the logits of the FC form for that window of the features; dropout is left out. A linear
    head becomes one such convolution. A gap head becomes a 1x1 convolution, and the mean of its score map over space
    is the model's logits.

    Put the model in its place and mode (device, eval()) first: the convolutional layers are the model's own, not
    copies, and the new ones share the memory of its FC weights.
    """
    kernel = 1 if isinstance(model.avgpool, nn.AdaptiveAvgPool2d) else model.map_size
    layers = model.classifier if isinstance(model.classifier, nn.Sequential) else [model.classifier]
    classifier: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            classifier.append(_as_convolution(layer, kernel))
            kernel = 1
        elif not isinstance(layer, nn.Dropout):
            classifier.append(layer)
    return nn.Sequential(OrderedDict(features=model.features, classifier=nn.Sequential(*classifier)))


class WindowLinear(nn.Conv2d):
    """A convolution of few positions and many weights, computed as one matrix product over its windows.

    For a 7x7 one with 4096 filters that is eight times as fast as oneDNN's convolution, which reorders the weights.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, out_channels, H - k + 1, W - k + 1); stride 1, no padding."""
        height, width = self.kernel_size
        windows = maps.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
        return linear(windows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _as_convolution(layer: nn.Linear, kernel: int) -> nn.Conv2d:
    """A linear layer on flattened (C, kernel, kernel) maps, as the convolution that shares its weights."""
    channels = layer.in_features // kernel**2
    with torch.device("meta"):
        conv = WindowLinear(channels, layer.out_features, kernel)
    weight = layer.weight.detach().view(layer.out_features, channels, kernel, kernel)
    conv.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    conv.bias = layer.bias
    return conv


@torch.no_grad()
def init_from_shallower(model: ConvNet, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Copy into `model` what it can take over from a trained net; return the keys copied. The rest keeps its values.

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
        # A layer is copied whole or not at all: a bias fits more often than its weight.
        if all(source is not None and source.shape == tensors[key].shape for key, source in sources.items()):
            for key, tensor in tensors.items():
                tensor.copy_(state_dict[f"{source_name}.{key}"])
                copied.append(f"{name}.{key}")
    if not copied:
        raise ValueError("--init-from: no layer of these weights has the shape of its counterpart in the new network")
    return copied


def _matching_convs(model: ConvNet, state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """The convolutions and batch norms to copy, each with the name of its counterpart in `state_dict`."""
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
    """The convolutional part, without memory, of the VGG network that these weights belong to; None if to none."""
    shapes = _feature_shapes(state_dict)
    for arch in CONFIGS:
        for batch_norm in (False, True):
            with torch.device("meta"):
                features = make_features(arch, batch_norm=batch_norm)
            if _feature_shapes(features.state_dict(prefix="features.")) == shapes:
                return features
    return None


def _feature_shapes(state_dict: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state_dict.items() if key.startswith("features.")}
