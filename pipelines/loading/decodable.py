"""What DALI is given of an image, so that it gives the pixels of `pipelines.pixels`, or none where there are none.

DALI's decoders give the same for whole 8-bit JPEGs of one or three colours and for PNGs of 8 bits, and refuse what is
damaged in most of them. But they convert CMYK, 16 bits and some BMPs in ways of their own, read formats that are not read
here, and see no damage outside the window of a crop; a GPU's hardware decoder may report a JPEG that was cut as decoded, and
leave the rest of it grey. And batches with headers that DALI 2.4 cannot parse have ended the process now and then (a
segmentation fault in a thread of its image decoder). So what is not plain is decoded by the definition, for its verdict or
for its pixels, and DALI is given the finished crop as a bitmap. So it is of what is large: DALI holds all that it decodes,
of several batches.
"""

from __future__ import annotations

import io
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.pixels import PNG_SIGNATURE
from pipelines.stores.image_header import FRAME_MARKERS

START_OF_IMAGE = b"\xff\xd8"  # ITU-T T.81, B.1.1.3, as all markers here
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; the others are lossless, arithmetic-coded, ...
# Behind the first scan's start: tables and starts of further scans, comments, the end.
_BETWEEN_SCANS = np.isin(np.arange(256), [0xC4, 0xDB, 0xDD, _START_OF_SCAN, 0xFE, _END_OF_IMAGE])
# No markers: a data byte FF is followed by 00, fill bytes are FF, and restarts (RST0 to RST7) may be anywhere.
_NO_MARKER = np.isin(np.arange(256), [0x00, 0xFF, *range(0xD0, 0xD8)])


class Route(IntEnum):
    """How an image gets to DALI."""

    UNKNOWN = 0
    AS_IS = 1
    CHECKED = 2
    """As it is, if the definition decodes it."""
    BITMAP = 3
    """As a bitmap of the crop, from the definition's pixels."""


# Pixels at most of what is left to DALI, which holds 3 bytes of each for all images of two batches.
LARGEST_WINDOW = 2**22  # 64 images a batch: 1.6 GB
LARGEST_OF_WINDOWS = 2**25  # of the image around a window: some decoders need all of it, in each thread
LARGEST_WHOLE = 2**24  # for a GPU's decoders, which are fast with photographs of 12 megapixels


def is_large(source: NDArray[np.int64], window: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Which images (n,), of shape `source` (n, 2), are not left to DALI; `window` (n, 2): what it decodes, if not all."""
    if window is None:
        return source.prod(axis=1) > LARGEST_WHOLE
    return (window.prod(axis=1) > LARGEST_WINDOW) | (source.prod(axis=1) > LARGEST_OF_WINDOWS)


def route(encoded: bytes) -> Route:
    """By the header, and for a JPEG by the markers in its data; nothing is decoded."""
    if encoded.startswith(START_OF_IMAGE):
        return _jpeg_route(encoded)
    if not encoded.startswith(PNG_SIGNATURE):
        return Route.BITMAP
    return Route.AS_IS if _is_plain_png(encoded) else Route.BITMAP


def _is_plain_png(encoded: bytes) -> bool:
    """Whether chunk after chunk leads to the end, and the pixels are such that DALI does not differ.

    Decoders differ in a colour beyond a palette's end, and DALI sees no damage in an animation.
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
        if marker < 0xC0 or marker == 0xFF or 0xD0 <= marker <= _END_OF_IMAGE:  # no segment starts with one of these
            return Route.BITMAP
        if marker in FRAME_MARKERS:
            has_frame = True
            if marker not in _HUFFMAN_FRAMES or encoded[at + 4] != 8 or encoded[at + 9] not in (1, 3):
                return Route.BITMAP
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    if not has_frame or encoded[at : at + 2] != b"\xff\xda":
        return Route.BITMAP
    data = np.frombuffer(encoded, np.uint8)[at + 2 :]
    behind = data[1:][np.flatnonzero(data[:-1] == 0xFF)]
    markers = behind[~_NO_MARKER[behind]]
    ends = np.count_nonzero(markers == _END_OF_IMAGE)
    whole = ends == 1 and markers[-1] == _END_OF_IMAGE and bool(_BETWEEN_SCANS[markers].all())
    return Route.AS_IS if whole else Route.CHECKED


def as_bitmap(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (height, width, 3) as a BMP of 24 bits, which every decoder reads alike."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()
