"""Stores of images in memory, the loaders that read them, and torchvision's crops to compare with."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional

from pipelines.loading.dali_graph import Decoding
from pipelines.loading.dali_loader import DaliLoader
from pipelines.loading.decoder_choice import choose_decoding
from pipelines.loading.epoch_plan import Samples
from pipelines.loading.loader import Batch, Loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.reference_loader import ReferenceLoader
from pipelines.stores.sample_store import SampleStore

CPU = torch.device("cpu")


MEAN = (123.68, 116.779, 103.939)


CUDA = torch.device("cuda", 0)


DALI, REFERENCE, WHOLE, WINDOWS = "DALI", "reference", "GPU graph, whole images", "GPU graph, windows"


DECODING = {WHOLE: Decoding("cpu"), WINDOWS: Decoding("cpu", regions=True)}


LOADERS = (DALI, REFERENCE, WHOLE, WINDOWS)


class Images(SampleStore):
    """A store of images in memory."""

    def __init__(self, encoded: list[bytes]) -> None:
        self.encoded = encoded
        self.labels = np.arange(len(encoded))
        self.class_names = [str(label) for label in self.labels]

    def read(self, index: int) -> bytes:
        return self.encoded[index]

    def length(self, index: int) -> int:
        return len(self.encoded[index])

    def name(self, index: int) -> str:
        return f"image-{index}"

    def size(self, index: int) -> tuple[int, int] | None:
        return None

    def subset(self, indices: np.ndarray) -> Images:
        return Images([self.encoded[index] for index in indices])


def make(kind: str, store: SampleStore, preprocessing: Preprocessing, device: torch.device = CPU) -> Loader:
    if kind == REFERENCE:
        return ReferenceLoader(store, preprocessing, 2, device)
    decoding = choose_decoding(device, 2) if device == CUDA else DECODING.get(kind)
    return DaliLoader(store, preprocessing, 2, device, 16, decoding)


def load(loader: Loader, samples: Samples, size: int = 16) -> Batch:
    batches = list(loader.batches([samples[k : k + size] for k in range(0, len(samples), size)]))
    return Batch(torch.cat([b.images for b in batches]).cpu(), torch.cat([b.labels for b in batches]).cpu())


def by_torchvision(store: SampleStore, samples: Samples, preprocessing: Preprocessing) -> torch.Tensor:
    """The expected batch: decode, resize, crop, flip, shift and normalise with torchvision's functions on whole images."""
    size, images = preprocessing.image_size, []
    for k in range(len(samples)):
        image = Image.open(io.BytesIO(store.read(int(samples.index[k])))).convert("RGB")
        image = functional.resize(image, int(samples.scale[k]), antialias=True)
        if preprocessing.pad:
            image = functional.pad(image, [preprocessing.pad])
        if preprocessing.center:
            image = functional.center_crop(image, size)
        else:
            height, width = image.height - size + 1, image.width - size + 1
            image = functional.crop(
                image, int(samples.position[k, 0] * height), int(samples.position[k, 1] * width), size, size
            )
        if samples.flip[k]:
            image = functional.hflip(image)
        pixels = functional.pil_to_tensor(image).float() + torch.from_numpy(samples.shift[k])[:, None, None]
        images.append(
            (pixels - torch.tensor(preprocessing.mean)[:, None, None]) / torch.tensor(preprocessing.std)[:, None, None]
        )
    return torch.stack(images)


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(height: int = 300, width: int = 400, seed: int = 0) -> Image.Image:
    """A smooth random image, similar to a photograph: noise at several scales."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for n in (3, 9, 40)
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def corrupted() -> tuple[Images, set[int]]:
    """20 images of which six cannot be decoded."""
    encoded = [encode(photo(seed=seed)) for seed in range(20)]
    noise = np.random.default_rng(0).bytes(5000)
    bad = {2: b"", 3: encoded[3][:2000], 9: noise, 10: encoded[10][:300], 16: b"<html>404</html>", 19: encoded[19][:-5000]}
    for index, content in bad.items():
        encoded[index] = content
    return Images(encoded), set(bad)
