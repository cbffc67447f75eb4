"""The reference loader: the same contract in PIL and torchvision, image by image, whole images at a time.

It decodes the whole image, rescales the whole image to smallest side S and cuts out the crop, as the paper's section 2 says
it. It is the oracle of the DALI loader's tests, and the loader where DALI has no build.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional

from pipelines.batch import Batch, Loader, prefetch
from pipelines.pixels import decode
from pipelines.plan import Samples


class ReferenceLoader(Loader):
    """See the module's docstring. Threads, not processes: PIL decodes and resizes without Python's lock."""

    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        """One batch for each element of `micro_batches`, in order, prepared ahead in the background."""
        return prefetch(self._batches(iter(micro_batches)), self.device)

    def _batches(self, plan: Iterator[Samples]) -> Iterator[Batch]:
        size, channels = self.preprocessing.image_size, self.preprocessing.channels
        with ThreadPoolExecutor(self.num_threads) as workers:
            for samples in plan:
                crops = list(workers.map(self.crop, (samples[k : k + 1] for k in range(len(samples)))))
                out = np.zeros((len(samples), size, size, channels), np.float32)
                for row, crop in enumerate(crops):
                    if crop is not None:
                        self.preprocessing.normalize_into(crop, samples.shift[row], out[row])
                decoded = np.array([crop is not None for crop in crops])
                images = torch.from_numpy(out).to(self.device)
                yield Batch(images.permute(0, 3, 1, 2), self.labels(samples, decoded))

    def crop(self, sample: Samples) -> NDArray[np.uint8] | None:
        """The crop (size, size, 3) of a single sample, flipped as planned; None if the image cannot be decoded."""
        index, size = int(sample.index[0]), self.preprocessing.image_size
        if index < 0 or index in self.bad_images:
            return None
        try:
            encoded, shape = self.read(index)
            image = Image.fromarray(decode(encoded))
        except OSError as error:
            self.skip(index, error)
            return None
        resized, corner = self.preprocessing.geometry(np.array([shape], np.int64), sample)
        image = functional.resize(image, resized[0].tolist(), functional.InterpolationMode.BILINEAR, antialias=True)
        if self.preprocessing.pad:
            image = functional.pad(image, [self.preprocessing.pad])
        top, left = (corner[0] + self.preprocessing.pad).tolist()
        image = functional.crop(image, top, left, size, size)
        return np.ascontiguousarray(np.asarray(functional.hflip(image) if sample.flip[0] else image))
