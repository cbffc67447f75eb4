"""Cuts a window out of a JPEG without decoding it.

Restart markers divide the entropy-coded data of a JPEG into segments that can be decoded independently of each other
(ITU-T T.81, F.2.1.3.1). If every row of MCUs has a whole number of them, the segments under a window, with a header that
states their height and width, are a JPEG of their own. Its decoded pixels are bit-equal to those of the whole image, as long
as no chroma sample outside it is interpolated into them.

`pipelines.preparation.restart_markers` writes such JPEGs. Right before the start-of-scan marker they have a *restart table*,
an APP10 segment with the length of each segment, so that nothing has to be searched for. Decoders ignore it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.stores.image_header import JpegSegment, jpeg_frame, jpeg_segments

IDENTIFIER = b"RESTART\0"
_MARKER = b"\xff\xea"  # APP10
MAX_SEGMENTS = 32_000  # an APP segment has at most 65,533 bytes
_MAX_SEGMENT_BYTES = 0xFFFF
MARGIN = 2  # px around a window that interpolated chroma samples reach: one sample of at most two pixels

# Bytes of the whole table; where the frame's height stands, counted from SOI; rows of segments; segments a row; MCUs a
# segment; height and width of an MCU; version. At the table's end, so that it is found from the scan, which follows.
_FOOTER = struct.Struct("<HHHHHBBH")
_VERSION = 1
_MCU_SIZES = (8, 16, 24, 32)  # sampling factors are 1 to 4
_SHAPE = struct.Struct(">HH")
_START_OF_IMAGE, _START_OF_SCAN = b"\xff\xd8", b"\xff\xda"
_END_OF_IMAGE, _RESTART_INTERVAL = 0xD9, 0xDD
_ANY_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
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


def with_table(encoded: bytes) -> bytes | None:
    """Adds the restart table to a JPEG that has restart markers; None if its rows of MCUs are not whole numbers of segments.

    It must have a single scan, as jpegtran and Pillow write it, and not be progressive. Segments of the header that no pixel
    depends on go to its front, as they are no part of cut-outs.
    """
    segments, frame = jpeg_segments(encoded), jpeg_frame(encoded)
    intervals = [each for each in segments or [] if each.marker == _RESTART_INTERVAL]
    if segments is None or frame is None or len(intervals) != 1 or encoded[-2:] != bytes([0xFF, _END_OF_IMAGE]):
        return None
    interval, scan = int.from_bytes(encoded[intervals[0].start + 4 : intervals[0].end]), segments[-1]
    if not interval or frame.mcus_per_row % interval or encoded.find(_START_OF_SCAN, scan.end) >= 0:
        return None
    ends = [match.end() for match in _ANY_RESTART.finditer(encoded, scan.end)]
    lengths = np.diff([scan.end, *ends, len(encoded)])
    columns = frame.mcus_per_row // interval
    if len(lengths) != frame.mcu_rows * columns or len(lengths) > MAX_SEGMENTS or lengths.max() > _MAX_SEGMENT_BYTES:
        return None

    def joined(some: list[JpegSegment]) -> bytes:
        return b"".join(encoded[segment.start : segment.end] for segment in some)

    needed = [segment for segment in segments[:-1] if _is_needed(segment)]
    metadata = [segment for segment in segments[:-1] if not _is_needed(segment) and not _is_table(encoded, segment)]
    position = next(k for k, segment in enumerate(needed) if segment.is_frame)
    # In a cut-out, SOI precedes the tables; the height follows the frame's marker, length and precision.
    height_at = len(_START_OF_IMAGE) + len(joined(needed[:position])) + 5
    size = 4 + len(IDENTIFIER) + 2 * len(lengths) + _FOOTER.size
    mcu = frame.mcu_height, frame.mcu_width
    footer = _FOOTER.pack(size, height_at, frame.mcu_rows, columns, interval, *mcu, _VERSION)
    table = _MARKER + (size - 2).to_bytes(2) + IDENTIFIER + lengths.astype("<u2").tobytes() + footer
    return _START_OF_IMAGE + joined(metadata) + joined(needed) + table + encoded[scan.start :]


def _is_needed(segment: JpegSegment) -> bool:
    """Whether the decoded pixels depend on this segment of a header, which then belongs into a cut-out."""
    return segment.is_frame or segment.marker in _DECODING


def _is_table(encoded: bytes, segment: JpegSegment) -> bool:
    """Whether this segment is a restart table."""
    return encoded.startswith(_MARKER, segment.start) and encoded.startswith(IDENTIFIER, segment.start + 4)


def cut_out_header(encoded: bytes) -> tuple[int, int] | None:
    """Where the header of an image's cut-outs starts and ends; None if the image has no restart table."""
    segments = jpeg_segments(encoded)
    if segments is None or len(segments) < 3 or not _is_table(encoded, segments[-2]):
        return None
    return next(segment.start for segment in segments if _is_needed(segment)), segments[-1].end


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
    first_length, step = scan - _FOOTER.size - 2 * rows * columns, interval * mcu_width
    if version != _VERSION or size != scan - first_length + 4 + len(IDENTIFIER) or size > scan:
        raise DamagedTable("the restart table is damaged")
    height, width = image
    same_size = header[frame - 2 : frame + 2] == _SHAPE.pack(height, width)
    if not (same_size and mcu_height in _MCU_SIZES and mcu_width in _MCU_SIZES and interval):
        raise DamagedTable("the restart table is of another image")
    if rows != -(-height // mcu_height) or columns * interval != -(-width // mcu_width):
        raise DamagedTable("the restart table is of another image")
    top, bottom = max(start[0] - MARGIN, 0) // mcu_height, min(-(-(end[0] + MARGIN) // mcu_height), rows)
    left, right = max(start[1] - MARGIN, 0) // step, min(-(-(end[1] + MARGIN) // step), columns)
    lengths = np.frombuffer(header, "<u2", rows * columns, first_length).reshape(rows, columns)
    ends = np.add.accumulate(lengths.ravel(), dtype=np.int64).reshape(rows, columns)
    row_starts = (ends[top:bottom, left] - lengths[top:bottom, left]).tolist()
    row_ends = ends[top:bottom, right - 1].tolist()
    begin, length = row_starts[0], row_ends[-1] - row_starts[0]
    data = memoryview(read(begin, length))
    if len(data) != length:
        raise DamagedTable("the restart table does not fit the data")
    shape = min(bottom * mcu_height, height) - top * mcu_height, min(right * step, width) - left * step
    # The frame's position counts from SOI, which is not part of `header`.
    tables = [header[: frame - 2], _SHAPE.pack(*shape), header[frame + 2 : scan - size], header[scan:]]
    segments = [data[first - begin : last - begin] for first, last in zip(row_starts, row_ends, strict=True)]
    encoded = np.frombuffer(bytearray().join([_START_OF_IMAGE, *tables, *segments]), np.uint8)
    _renumber(encoded, lengths[top:bottom, left:right])
    return CutOut(encoded, (top * mcu_height, left * step), shape)


def cut_out_of(encoded: bytes, image: tuple[int, int], start: tuple[int, int], end: tuple[int, int]) -> CutOut:
    """The same from an encoded image in memory."""
    span = cut_out_header(encoded)
    if span is None:
        raise DamagedTable("no restart table")
    first, scan = span
    return cut_out(encoded[first:scan], image, start, end, lambda at, length: encoded[scan + at : scan + at + length])


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
