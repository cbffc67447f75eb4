"""Which images DALI may decode, so that every image gets the pixels that `pipelines.pixels` defines, or is refused.

DALI's decoders agree with that definition for complete 8-bit JPEGs with one or three components and for 8-bit PNGs, and they
refuse most damaged ones. For other images they do not agree:

- they convert CMYK, 16-bit images and some BMPs differently, and read formats that we refuse;
- they notice no damage outside the window of a crop;
- a GPU's hardware decoder may report a truncated JPEG as decoded and leave the rest of it grey;
- batches with headers that DALI 2.4 cannot parse have occasionally crashed the process (a segmentation fault in a thread of
  its image decoder).

Such images are decoded by `pipelines.pixels`, either to check them or for their pixels; then DALI is given the finished crop
as a bitmap. The same is done for large images, because DALI keeps the decoded images of several batches in memory.
"""

from __future__ import annotations

import io
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.pixels import PNG_SIGNATURE
from pipelines.stores.image_header import FRAME_MARKERS, HUFFMAN_FRAMES

START_OF_IMAGE = b"\xff\xd8"  # ITU-T T.81, B.1.1.3, as all markers here
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Markers allowed after the start of the first scan: tables, starts of further scans, comments, the end of the image.
_BETWEEN_SCANS = np.isin(np.arange(256), [0xC4, 0xDB, 0xDD, _START_OF_SCAN, 0xFE, _END_OF_IMAGE])
# After FF these bytes are no markers of interest: 00 escapes a data byte FF, FF is a fill byte, RST0 to RST7 are restarts.
_NO_MARKER = np.isin(np.arange(256), [0x00, 0xFF, *range(0xD0, 0xD8)])


class Route(IntEnum):
    """How an image is given to DALI."""

    UNKNOWN = 0
    AS_IS = 1
    CHECKED = 2
    """As it is, if `pipelines.pixels` can decode it."""
    BITMAP = 3
    """As a bitmap of the finished crop, decoded by `pipelines.pixels`."""


# The most pixels that DALI may decode of an image. It holds 3 bytes a pixel, for all images of two batches.
MAX_WINDOW_PIXELS = 2**22  # with 64 images a batch: 1.6 GB
MAX_PIXELS_AROUND_WINDOW = 2**25  # of the image that has the window: some decoders decode all of it, in each thread
MAX_WHOLE_PIXELS = 2**24  # for a GPU's decoders, which are fast on photographs of 12 megapixels


def is_large(source: NDArray[np.int64], window: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Which images (n,), of shape `source` (n, 2), are too large for DALI.

    `window` (n, 2): the shapes of the windows that it would decode; None where it decodes whole images.
    """
    if window is None:
        return source.prod(axis=1) > MAX_WHOLE_PIXELS
    return (window.prod(axis=1) > MAX_WINDOW_PIXELS) | (source.prod(axis=1) > MAX_PIXELS_AROUND_WINDOW)


def route(encoded: bytes) -> Route:
    """The route of an image, from its header and, for a JPEG, the markers in its data. Nothing is decoded."""
    if encoded.startswith(START_OF_IMAGE):
        return _jpeg_route(encoded)
    if not encoded.startswith(PNG_SIGNATURE):
        return Route.BITMAP
    return Route.AS_IS if _is_plain_png(encoded) else Route.BITMAP


def _is_plain_png(encoded: bytes) -> bool:
    """Whether the chunks are complete up to the last, and of a kind for which DALI's pixels are the same.

    Palettes are excluded because decoders differ on an index beyond the palette's end, animations because DALI notices no
    damage in them.
    """
    at, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(encoded[at : at + 4]), encoded[at + 4 : at + 8]
        at += 12 + length
        if at > len(encoded) or kind == b"acTL":
            return False
    return encoded[12:16] == b"IHDR" and encoded[24] == 8 and encoded[25] in (0, 2, 4, 6)


def _jpeg_route(encoded: bytes) -> Route:
    at, end, has_frame = 2, len(encoded), False
    while at + 10 <= end and encoded[at] == 0xFF and (marker := encoded[at + 1]) != _START_OF_SCAN:
        if marker < 0xC0 or marker == 0xFF or 0xD0 <= marker <= _END_OF_IMAGE:  # none of these starts a segment
            return Route.BITMAP
        if marker in FRAME_MARKERS:
            has_frame = True
            if marker not in HUFFMAN_FRAMES or encoded[at + 4] != 8 or encoded[at + 9] not in (1, 3):
                return Route.BITMAP
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    if not has_frame or encoded[at : at + 2] != b"\xff\xda":
        return Route.BITMAP
    data = np.frombuffer(encoded, np.uint8)[at + 2 :]
    following = data[1:][np.flatnonzero(data[:-1] == 0xFF)]
    markers = following[~_NO_MARKER[following]]
    ends = np.count_nonzero(markers == _END_OF_IMAGE)
    whole = ends == 1 and markers[-1] == _END_OF_IMAGE and bool(_BETWEEN_SCANS[markers].all())
    return Route.AS_IS if whole else Route.CHECKED


def as_bitmap(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (height, width, 3) as a 24-bit BMP, which all decoders read identically."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()
