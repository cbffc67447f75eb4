"""Cuts a window out of a JPEG without decoding it.

Restart markers divide the entropy-coded data of a JPEG into segments that can be decoded independently of each other
(ITU-T T.81, F.2.1.3.1). If every row of MCUs has a whole number of them, the segments under a window, with a header that
states their height and width, are a JPEG of their own. Its decoded pixels are bit-equal to those of the whole image, as long
as no chroma sample outside it is interpolated into them.

`pipelines.preparation.restart_markers` writes such JPEGs. Right before the start-of-scan marker they have a *restart table*,
an APP10 segment with the length of each segment, so that nothing has to be searched for. Decoders ignore it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.stores.image_header import JpegSegment, jpeg_segments

IDENTIFIER = b"RESTART\0"
MARKER = b"\xff\xea"  # APP10
MAX_SEGMENTS = 32_000  # an APP segment has at most 65,533 bytes
MAX_SEGMENT_BYTES = 0xFFFF
MARGIN = 2  # px around a window that interpolated chroma samples reach: one sample of at most two pixels

# Bytes of the whole table; where the frame's height stands, counted from SOI; rows of segments; segments a row; MCUs a
# segment; height and width of an MCU; version. At the table's end, so that it is found from the scan, which follows.
_FOOTER = struct.Struct("<HHHHHBBH")
_VERSION = 1
_SHAPE = struct.Struct(">HH")
_START_OF_IMAGE, _START_OF_SCAN = b"\xff\xd8", b"\xff\xda"
_END_OF_IMAGE = 0xD9
# Segments that pixels depend on, besides the frame: JFIF and Adobe (colours), Huffman and quantisation tables, interval.
_DECODING = (0xE0, 0xEE, 0xC4, 0xDB, 0xDD)
_RESTARTS = np.tile(np.arange(0xD0, 0xD8, dtype=np.uint8), MAX_SEGMENTS // 8)


@dataclass(frozen=True)
class CutOut:
    """A JPEG that shows the part of another image whose top-left pixel is `origin` (y, x)."""

    encoded: NDArray[np.uint8]
    origin: tuple[int, int]
    shape: tuple[int, int]
    """(height, width) of the part."""


class DamagedTable(ValueError):
    """A restart table that does not describe the segments that follow it."""


def encode_table(lengths: NDArray[np.integer], frame: int, columns: int, interval: int, mcu: tuple[int, int]) -> bytes:
    """The APP10 segment. `lengths` (rows * columns,): bytes of each segment with its closing marker.

    `frame`: where the frame's height stands in the header of a cut-out. `interval`: MCUs a segment. `mcu`: its (height,
    width) in pixels.
    """
    rows, size = len(lengths) // columns, 4 + len(IDENTIFIER) + 2 * len(lengths) + _FOOTER.size
    footer = _FOOTER.pack(size, frame, rows, columns, interval, *mcu, _VERSION)
    return MARKER + (size - 2).to_bytes(2) + IDENTIFIER + lengths.astype("<u2").tobytes() + footer


def is_needed(segment: JpegSegment) -> bool:
    """Whether the decoded pixels depend on this segment of a header, which then belongs into a cut-out."""
    return segment.is_frame or segment.marker in _DECODING


def is_table(encoded: bytes, segment: JpegSegment) -> bool:
    """Whether this segment is a restart table."""
    return encoded.startswith(MARKER, segment.start) and encoded.startswith(IDENTIFIER, segment.start + 4)


def cut_out_header(encoded: bytes) -> tuple[int, int] | None:
    """Where the header of an image's cut-outs starts and ends; None if the image has no restart table."""
    segments = jpeg_segments(encoded)
    if segments is None or len(segments) < 3 or not is_table(encoded, segments[-2]):
        return None
    return next(segment.start for segment in segments if is_needed(segment)), segments[-1].end


def cut_out(
    header: bytes, image: tuple[int, int], start: tuple[int, int], end: tuple[int, int], read: Callable[[int, int], bytes]
) -> CutOut:
    """The smallest JPEG of whole segments around the pixels from `start` to `end` (y, x) of an image (height, width).

    `header`: the bytes that `cut_out_header` finds, up to the entropy-coded data. `read(offset, length)`
    returns entropy-coded data. Raises DamagedTable if there is no table, or it does not fit the data.
    """
    scan = header.rfind(_START_OF_SCAN)
    if scan < _FOOTER.size:
        raise DamagedTable("no restart table")
    size, frame, rows, columns, interval, mcu_height, mcu_width, version = _FOOTER.unpack_from(header, scan - _FOOTER.size)
    first_length = scan - _FOOTER.size - 2 * rows * columns
    if version != _VERSION or size != scan - first_length + 4 + len(IDENTIFIER) or size > scan or not rows * columns:
        raise DamagedTable("the restart table is damaged")
    (height, width), step = image, interval * mcu_width
    top, bottom = max(start[0] - MARGIN, 0) // mcu_height, min(-(-(end[0] + MARGIN) // mcu_height), rows)
    left, right = max(start[1] - MARGIN, 0) // step, min(-(-(end[1] + MARGIN) // step), columns)
    if top >= bottom or left >= right:
        raise DamagedTable("the restart table is of another image")

    lengths = np.frombuffer(header, "<u2", rows * columns, first_length).reshape(rows, columns)
    ends = np.add.accumulate(lengths.ravel(), dtype=np.int64).reshape(rows, columns)
    row_starts = (ends[top:bottom, left] - lengths[top:bottom, left]).tolist()
    row_ends = ends[top:bottom, right - 1].tolist()
    data = memoryview(read(row_starts[0], row_ends[-1] - row_starts[0]))
    shape = min(bottom * mcu_height, height) - top * mcu_height, min(right * step, width) - left * step
    # The frame's position counts from SOI, which is not part of `header`.
    tables = [header[: frame - 2], _SHAPE.pack(*shape), header[frame + 2 : scan - size], header[scan:]]
    begin = row_starts[0]
    segments = [data[first - begin : last - begin] for first, last in zip(row_starts, row_ends, strict=True)]
    encoded = np.frombuffer(bytearray().join([_START_OF_IMAGE, *tables, *segments]), np.uint8)
    _renumber(encoded, lengths[top:bottom, left:right])
    return CutOut(encoded, (top * mcu_height, left * step), shape)


def _renumber(encoded: NDArray[np.uint8], lengths: NDArray[np.integer]) -> None:
    """Numbers the restart markers from 0, as decoders expect them, and ends the image after the last segment."""
    marks = np.add.accumulate(lengths.ravel(), dtype=np.int64)
    marks += len(encoded) - 1 - marks[-1]
    codes = encoded[marks]
    is_marker = (codes & 0xF8) == 0xD0
    is_marker[-1] |= codes[-1] == _END_OF_IMAGE
    if not (is_marker.all() and (encoded[marks - 1] == 0xFF).all()):
        raise DamagedTable("the restart table does not fit the data")
    encoded[marks] = _RESTARTS[: len(marks)]
    encoded[-1] = _END_OF_IMAGE
