"""The net and the images that pictures are made of: centre crops at the net's own size, and their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.loading.epoch_plan import evaluation_samples
from pipelines.loading.loader import IGNORED_LABEL
from pipelines.loading.open import loader_threads, open_loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.stores.sample_store import SampleStore
from vgg_dist.evaluation.open import default_scale
from vgg_dist.models.layers import Layer
from vgg_dist.models.precision import apply_precision
from vgg_dist.weights.net import TrainedNet

BATCH_PIXELS = 16 * 224 * 224  # of a batch; the first layer's maps of D then take 200 MB


def choose_device() -> torch.device:
    """The first GPU, or else the CPU. Everything is computed in fp32, without TF32: activations are compared."""
    apply_precision("fp32")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_layers(layers: dict[str, Layer], wanted: Sequence[str], flag: str = "--layers") -> list[Layer]:
    """The layers with maps that are asked for by name, in order; by default the last convolution before each pool.

    ValueError, one line that lists those that exist, for another name.
    """
    maps = {name: layer for name, layer in layers.items() if layer.kind != "fc"}
    if "all" in wanted:
        return [layer for layer in maps.values() if layer.kind == "convolution"]
    for name in wanted:
        if name not in maps:
            raise ValueError(f"{flag} {name}: the net has no such layer with maps; allowed: {', '.join(maps)}")
    if wanted:
        return [layer for name, layer in maps.items() if name in wanted]
    found: dict[int, Layer] = {}
    pools = 0
    for layer in maps.values():
        pools += layer.kind == "pool"
        if layer.kind == "convolution":
            found[pools] = layer
    return list(found.values())


class Images:
    """Images of a store as a net sees them in validation: rescaled to smallest side Q, centre crop, normalised.

    The net is moved to the device, channels-last, which is almost twice as fast on a CPU, in evaluation mode.
    """

    def __init__(self, store: SampleStore, net: TrainedNet) -> None:
        self.store, self.net, self.device = store, net, choose_device()
        self.model = net.model.to(self.device).to(memory_format=torch.channels_last).eval()
        self.scale = default_scale(net)
        self.batch = max(1, min(256, BATCH_PIXELS // net.image_size**2))
        preprocessing = Preprocessing(net.image_size, net.mean, net.std, center=True)
        threads = loader_threads(None)
        self.loader = open_loader(store, preprocessing, num_threads=threads, max_batch=self.batch, device=self.device)

    def spread(self, count: int) -> NDArray[np.int64]:
        """The indices of `count` images at equal distances, or of all where there are no more."""
        total = len(self.store)
        return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))

    def batches(self, indices: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (n, C, S, S) and their indices (n,), on the device. Those that cannot be decoded are left out."""
        samples = evaluation_samples(indices, self.scale)
        parts = [samples[start : start + self.batch] for start in range(0, len(samples), self.batch)]
        for part, batch in zip(parts, self.loader.batches(parts), strict=True):
            good = (batch.labels != IGNORED_LABEL).cpu()
            rows = torch.from_numpy(part.index)[good]
            if len(rows):
                yield batch.images[good.to(self.device)].contiguous(memory_format=torch.channels_last), rows.to(self.device)

    def pixels(self, images: Tensor) -> NDArray[np.uint8]:
        """(n, H, W, C) grey levels of images (n, C, H, W) as `batches` gives them."""
        mean, std = (torch.tensor(each, device=images.device)[:, None, None] for each in (self.net.mean, self.net.std))
        levels = (images * std + mean).round().clamp(0, 255).to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()

    def class_name(self, index: int) -> str:
        """Of an image of the store, as its data calls it; empty where that is not known."""
        label = int(self.store.labels[index])
        return self.store.class_names[label] if 0 <= label < len(self.store.class_names) else ""
