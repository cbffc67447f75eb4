"""What DALI is given of a plan's samples: their files, or finished crops, and the geometry of the crops.

Plain images go to DALI as they are. Of those that `pipelines.loading.decodable` does not leave to it, a thread makes the
crop, one large image at a time, and DALI is given that. So the memory of a batch is bounded, whatever the sizes of the
images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.failures import first_cause
from pipelines.loading.crop_geometry import decode_window
from pipelines.loading.dali_graph import Decoding, Prepared
from pipelines.loading.decodable import Route, as_bitmap, is_large, route
from pipelines.loading.epoch_plan import Samples, concatenate
from pipelines.loading.loader import Loader
from pipelines.loading.readers import Readers
from pipelines.loading.rescale import clipped, crop_of_rescaled
from pipelines.pixels import decoded, refusal

_Image = tuple[bytes, tuple[int, int]]
"""An encoded image and the (height, width) of its pixels."""


class DaliInputs:
    """Prepares batches for DALI; knows how each image of the loader's store gets there, once it has been read."""

    def __init__(self, loader: Loader, decoding: Decoding | None) -> None:
        self.loader = loader
        self.decoding = decoding
        self._routes = np.full(len(loader.store), Route.UNKNOWN, np.uint8)

    def prepare(self, group: list[Samples], readers: Readers) -> Prepared:
        """These micro-batches as one batch; images that cannot be read or decoded are noted and left out."""
        samples = concatenate(group)
        images = readers.map(self._read_decodable, samples.index.tolist())
        rows = np.array([row for row, image in enumerate(images) if image is not None], np.int64)
        return self._windowed(samples, [len(micro) for micro in group], rows, [image for image in images if image], readers)

    def _read_decodable(self, index: int) -> _Image | None:
        """The encoded image and its (height, width); None for a filler or what is undecodable."""
        if index < 0 or index in self.loader.bad_images:
            return None
        limit = self.loader.preprocessing.max_pixels
        try:
            encoded, shape = self.loader.read(index)
            way = self._routes[index]
            if way == Route.UNKNOWN:
                way = route(encoded)
                checked = way == Route.CHECKED or shape[0] * shape[1] > limit
                if checked and (wrong := refusal(encoded, limit)) is not None:
                    raise OSError(wrong)
                self._routes[index] = way
        except OSError as error:
            self.loader.skip(index, error)
            return None
        return encoded, shape

    def _windowed(
        self, samples: Samples, counts: list[int], rows: NDArray[np.int64], images: list[_Image], readers: Readers
    ) -> Prepared:
        """What DALI is given of these images: as they are, or the finished crop of one that is not left to it."""
        size, planned = self.loader.preprocessing.image_size, samples.at(rows)
        source = np.array([shape for _, shape in images], np.int64).reshape(-1, 2)
        resized, corner = self.loader.preprocessing.geometry(source, planned)
        first, last = clipped(resized, corner, size)
        window = decode_window(source, resized, first, last - first)
        whole = self.decoding is not None and not self.decoding.regions
        by_definition = (self._routes[planned.index] == Route.BITMAP) | is_large(source, None if whole else window.shape)
        if by_definition.any():

            def crop(k: int) -> _Image | None:
                try:
                    with decoded(images[k][0], self.loader.preprocessing.max_pixels) as image:
                        pixels = crop_of_rescaled(image, resized[k].tolist(), corner[k].tolist(), (size, size))
                except OSError as error:
                    self.loader.skip(int(planned.index[k]), error)
                    return None
                return as_bitmap(pixels), (size, size)

            some = np.flatnonzero(by_definition).tolist()
            crops = dict(zip(some, readers.map(crop, some), strict=True))
            chosen = [crops.get(k, image) for k, image in enumerate(images)]
            good = np.array([image is not None for image in chosen], np.bool_)
            images, rows = [image for image in chosen if image is not None], rows[good]
            source[by_definition], resized[by_definition], corner[by_definition] = size, size, 0
            source, resized, corner = source[good], resized[good], corner[good]
            first, last = clipped(resized, corner, size)
            window = decode_window(source, resized, first, last - first)
        encoded = [np.frombuffer(content, np.uint8) for content, _ in images]
        return Prepared(samples, counts, rows, encoded, corner, np.stack([first, last], axis=1), window)

    def without_corrupt(self, prepared: Prepared, error: RuntimeError, readers: Readers) -> Prepared:
        """The batch without the images that cannot be decoded, each of which is noted.

        If there are none, DALI does not know an image of a kind: it is given the crops of all. RuntimeError if they were:
        out of memory, no decoder for this GPU, ...
        """
        keep, plain = [], []
        for row in prepared.rows.tolist():
            index = int(prepared.samples.index[row])
            if self._routes[index] != Route.BITMAP:
                if (wrong := refusal(self.loader.read(index)[0], self.loader.preprocessing.max_pixels)) is not None:
                    self.loader.skip(index, wrong)
                    continue
                plain.append(index)
            keep.append(row)
        if len(keep) == len(prepared.rows):
            if not plain:
                raise RuntimeError(f"DALI: {first_cause(str(error))}") from error
            self._routes[plain] = Route.BITMAP
        again = ((row, self._read_decodable(int(prepared.samples.index[row]))) for row in keep)
        images = {row: image for row, image in again if image is not None}
        return self._windowed(
            prepared.samples, prepared.counts, np.array(list(images), np.int64), list(images.values()), readers
        )


def no_images() -> Prepared:
    """A batch without images, for the names and types of what DALI is given."""
    none, pairs = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    samples = Samples(none, none.astype(np.int32), pairs.astype(np.float64), none.astype(np.bool_), none.astype(np.float32))
    return Prepared(samples, [], none, [], pairs, pairs.reshape(0, 2, 2), decode_window(pairs, pairs, pairs, pairs))
