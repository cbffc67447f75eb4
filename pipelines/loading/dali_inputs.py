"""What DALI is given of a plan's samples: encoded images, or finished crops, and the geometry of the crops.

Ordinary images go to DALI as they are, or, if the store can cut windows out of them, as JPEGs of little more than the pixels
under the crop. For those that `pipelines.loading.decodable` keeps from it, a thread makes the crop,
one large image at a time, and DALI is given that crop. The memory of a batch is therefore bounded, whatever the sizes of the
images.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.failures import first_cause
from pipelines.loading.crop_geometry import DecodeWindow, decode_window
from pipelines.loading.decodable import Route, as_bitmap, is_large, route
from pipelines.loading.epoch_plan import Samples, concatenate
from pipelines.loading.loader import Loader
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.readers import Readers
from pipelines.loading.rescale import clipped, crop_of_rescaled
from pipelines.pixels import decoded, refusal
from pipelines.stores.restart_table import DamagedTable

_Span = tuple[tuple[int, int], tuple[int, int]]
"""The first pixel (y, x) of a window, and the one after its last."""


class _Image(NamedTuple):
    """What is decoded of an image of `shape` (height, width): the part of shape `part` whose first pixel is `origin`."""

    encoded: NDArray[np.uint8]
    shape: tuple[int, int]
    origin: tuple[int, int]
    part: tuple[int, int]

    @classmethod
    def whole(cls, encoded: bytes, shape: tuple[int, int]) -> _Image:
        return cls(np.frombuffer(encoded, np.uint8), shape, (0, 0), shape)

    @property
    def is_whole(self) -> bool:
        return self.part == self.shape


@dataclass
class PreparedBatch:
    """A batch as DALI is given it: one micro-batch, or several in a row.

    `counts`: the sizes of the micro-batches. `rows` (m,) int: which of the n samples can be read; the remaining fields are
    about those. `corner` (m, 2): of the crops, as (y, x) in the rescaled images. `inside` (m, 2, 2): first and last corner
    of the part of each crop that lies inside the image, which is all of it without padding. `window`: the source pixels
    that this part is made from, counted from the first pixel that is encoded.
    """

    samples: Samples
    counts: list[int]
    rows: NDArray[np.int64]
    encoded: list[NDArray[np.uint8]]
    corner: NDArray[np.int64]
    inside: NDArray[np.int64]
    window: DecodeWindow


class DaliInputs:
    """Prepares batches for DALI, and remembers the route of each image of the loader's store once it has been read.

    `decodes_windows`: whether the graph decodes only the windows under the crops, or all that it is given. `cut_outs`:
    whether it is given only what is around them, where the store can cut that out.
    """

    def __init__(self, loader: Loader, decodes_windows: bool, cut_outs: bool) -> None:
        self.loader = loader
        self.decodes_windows = decodes_windows
        self.cut_outs = cut_outs
        self._routes = np.full(len(loader.store), Route.UNKNOWN, np.uint8)

    def prepare(self, group: list[Samples], readers: Readers) -> PreparedBatch:
        """These micro-batches as one batch. Images that cannot be read or decoded are recorded and left out."""
        samples = concatenate(group)
        spans = self._spans_to_cut_out(samples)
        images = readers.map(lambda row: self._read_decodable(int(samples.index[row]), spans.get(row)), range(len(samples)))
        rows = np.array([row for row, image in enumerate(images) if image is not None], np.int64)
        return self._windowed(samples, [len(micro) for micro in group], rows, [image for image in images if image], readers)

    def _spans_to_cut_out(self, samples: Samples) -> dict[int, _Span]:
        """The windows under the crops of the samples that the store can cut them out of, by row."""
        if not self.cut_outs:
            return {}
        store, limit = self.loader.store, self.loader.preprocessing.max_pixels
        rows = np.flatnonzero(samples.index >= 0)
        indices = samples.index[rows]
        rows = rows[store.can_cut_out(indices) & (self._routes[indices] != Route.BITMAP)]
        source = np.array([store.size(index) for index in samples.index[rows].tolist()], np.int64).reshape(-1, 2)
        rows, source = rows[source.prod(axis=1) <= limit], source[source.prod(axis=1) <= limit]
        window = _window(self.loader.preprocessing, source, samples.at(rows))[-1]
        edges = zip(window.start.tolist(), (window.start + window.shape).tolist(), strict=True)
        return {row: (tuple(start), tuple(end)) for row, (start, end) in zip(rows.tolist(), edges, strict=True)}

    def _read_decodable(self, index: int, span: _Span | None = None) -> _Image | None:
        """The image, or only what is around `span`; None for a dummy sample or an undecodable image."""
        if index < 0 or index in self.loader.bad_images:
            return None
        try:
            if span is not None and (size := self.loader.store.size(index)) is not None:
                with suppress(DamagedTable):  # then the whole image is read, and checked
                    cut = self.loader.store.cut_out(index, *span)
                    return _Image(cut.encoded, size, cut.origin, cut.shape)
            return self._read_whole(index)
        except OSError as error:
            self.loader.skip(index, error)
            return None

    def _read_whole(self, index: int) -> _Image:
        """The whole image. Raises OSError if it cannot be read or decoded."""
        limit = self.loader.preprocessing.max_pixels
        encoded, shape = self.loader.read(index)
        way = self._routes[index]
        if way == Route.UNKNOWN:
            way = route(encoded)
            checked = way == Route.CHECKED or shape[0] * shape[1] > limit
            if checked and (wrong := refusal(encoded, limit)) is not None:
                raise OSError(wrong)
            self._routes[index] = way
        return _Image.whole(encoded, shape)

    def _windowed(
        self, samples: Samples, counts: list[int], rows: NDArray[np.int64], images: list[_Image], readers: Readers
    ) -> PreparedBatch:
        """What DALI is given of these images: the images as they are, or a finished crop where DALI must not decode."""
        size, planned = self.loader.preprocessing.image_size, samples.at(rows)
        source = np.array([image.shape for image in images], np.int64).reshape(-1, 2)
        resized, corner, inside, window = _window(self.loader.preprocessing, source, planned)
        part = np.array([image.part for image in images], np.int64).reshape(-1, 2)
        large = is_large(part, window.shape if self.decodes_windows else None)
        not_for_dali = (self._routes[planned.index] == Route.BITMAP) | large
        if not_for_dali.any():

            def crop(k: int) -> _Image | None:
                try:
                    image = images[k] if images[k].is_whole else _Image.whole(*self.loader.read(int(planned.index[k])))
                    with decoded(image.encoded.tobytes(), self.loader.preprocessing.max_pixels) as picture:
                        pixels = crop_of_rescaled(picture, resized[k].tolist(), corner[k].tolist(), (size, size))
                except OSError as error:
                    self.loader.skip(int(planned.index[k]), error)
                    return None
                return _Image.whole(as_bitmap(pixels), (size, size))

            some = np.flatnonzero(not_for_dali).tolist()
            crops = dict(zip(some, readers.map(crop, some), strict=True))
            chosen = [crops.get(k, image) for k, image in enumerate(images)]
            good = np.array([image is not None for image in chosen], np.bool_)
            images, rows = [image for image in chosen if image is not None], rows[good]
            source[not_for_dali], resized[not_for_dali], corner[not_for_dali] = size, size, 0
            corner = corner[good]
            inside, window = _inside(source[good], resized[good], corner, size)
        origin = np.array([image.origin for image in images], np.int64).reshape(-1, 2)
        window = replace(window, start=window.start - origin)
        return PreparedBatch(samples, counts, rows, [image.encoded for image in images], corner, inside, window)

    def without_corrupt(self, prepared: PreparedBatch, error: RuntimeError, readers: Readers) -> PreparedBatch:
        """The batch without its undecodable images, each of which is recorded, after DALI failed on it with `error`.

        If all images can be decoded, DALI lacks a decoder for one of them, and is given finished crops of all. Raises
        RuntimeError if it already was: then the cause is another one (out of memory, no decoder for this GPU, ...).
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


def _window(
    preprocessing: Preprocessing, source: NDArray[np.int64], samples: Samples
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], DecodeWindow]:
    """Rescaled shapes and corners (n, 2), and what `_inside` returns, for images of shape `source` (n, 2)."""
    resized, corner = preprocessing.geometry(source, samples)
    return resized, corner, *_inside(source, resized, corner, preprocessing.image_size)


def _inside(
    source: NDArray[np.int64], resized: NDArray[np.int64], corner: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], DecodeWindow]:
    """The corners (n, 2, 2) of the parts of crops inside their images, and the windows under these."""
    first, last = clipped(resized, corner, size)
    return np.stack([first, last], axis=1), decode_window(source, resized, first, last - first)


def empty_batch() -> PreparedBatch:
    """A batch without images, from which a graph's inputs have their names and types."""
    none, pairs = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    samples = Samples(none, none.astype(np.int32), pairs.astype(np.float64), none.astype(np.bool_), none.astype(np.float32))
    return PreparedBatch(samples, [], none, [], pairs, pairs.reshape(0, 2, 2), decode_window(pairs, pairs, pairs, pairs))
