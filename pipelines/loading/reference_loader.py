"""The reference loader: the contract of `pipelines.loading.loader`, in Pillow, one image at a time.

It does literally what the paper's section 2 says: decode the whole image, rescale it to smallest side S, cut out the crop.
Only a very long image is rescaled under the crop alone (`pipelines.loading.rescale`). It is the oracle in the tests of the
DALI loader, and the loader where DALI has no build.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.loading.epoch_plan import Samples
from pipelines.loading.loader import Batch, Loader
from pipelines.loading.prefetch import prefetch
from pipelines.loading.rescale import crop_of_rescaled
from pipelines.pixels import decoded


class ReferenceLoader(Loader):
    """See the module's docstring. Uses threads, not processes, because Pillow releases the GIL to decode and resize."""

    def batches(self, micro_batches: Iterable[Samples]) -> Iterator[Batch]:
        """One batch for each element of `micro_batches`, in order, prepared ahead in the background."""
        return prefetch(self._batches(iter(micro_batches)), self.device)

    def _batches(self, plan: Iterator[Samples]) -> Iterator[Batch]:
        size, channels = self.preprocessing.image_size, self.preprocessing.channels
        with ThreadPoolExecutor(self.num_threads) as workers:
            for samples in plan:
                crops = list(workers.map(self.crop, (samples[k : k + 1] for k in range(len(samples)))))
                out = np.zeros((len(samples), size, size, channels), np.float32)
                offsets = self.preprocessing.row_offsets(samples.shift)
                for row, crop in enumerate(crops):
                    if crop is not None:
                        self.preprocessing.normalize_into(crop, offsets[row], out[row])
                decoded = np.array([crop is not None for crop in crops])
                images = torch.from_numpy(out).to(self.device)
                yield Batch(images.permute(0, 3, 1, 2), self.labels(samples, decoded))

    def crop(self, sample: Samples) -> NDArray[np.uint8] | None:
        """The crop (size, size, 3) of a single sample, flipped if planned; None if the image cannot be decoded."""
        index, size = int(sample.index[0]), self.preprocessing.image_size
        if index < 0 or index in self.bad_images:
            return None
        try:
            encoded, shape = self.read(index)
            resized, corner = self.preprocessing.geometry(np.array([shape], np.int64), sample)
            with decoded(encoded, self.preprocessing.max_pixels) as image:
                crop = crop_of_rescaled(image, resized[0].tolist(), corner[0].tolist(), (size, size))
        except OSError as error:
            self.skip(index, error)
            return None
        return np.ascontiguousarray(crop[:, ::-1] if sample.flip[0] else crop)
