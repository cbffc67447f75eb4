"""Transcodes JPEGs without loss, so that windows can be cut out of them (`pipelines.stores.restart_table`).

libjpeg-turbo's `jpegtran` writes the same DCT coefficients again, as a sequential JPEG with optimised Huffman tables and
restart markers. What cannot be transcoded, would gain nothing, or does not decode to the same pixels stays as it is: other
formats, CMYK, arithmetic coding, 12 bits, damaged files, small images.

`jpegtran` is a program, because no package on PyPI offers a lossless transform with restart markers (TurboJPEG's API writes
them only when it compresses).
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np

from pipelines.pixels import decode
from pipelines.stores.image_header import HUFFMAN_FRAMES, JpegSegment, jpeg_segments
from pipelines.stores.restart_table import MAX_SEGMENT_BYTES, MAX_SEGMENTS, encode_table, is_needed, is_table

JPEGTRAN = "jpegtran"
NO_JPEGTRAN = (
    "jpegtran is not installed (Debian: apt-get install libjpeg-turbo-progs; conda: libjpeg-turbo; Homebrew: jpeg-turbo): "
    "the shards get no restart markers, and training decodes more of each image than it keeps"
)
MIN_PIXELS = 128 * 128  # of smaller images a crop takes nearly everything, and their headers weigh more
# Width of a segment, px. Narrower ones cost bytes (see docs/shards.md); wider ones make cut-outs larger than windows.
SEGMENT_WIDTH = 48
_WIDTHS_PER_IMAGE = 10  # of an image that is more than ten times as wide, segments are wider
_RESTART_MARKER = re.compile(rb"\xff[\xd0-\xd7]")
_END_OF_IMAGE = b"\xff\xd9"
_TIMEOUT_S = 120.0


def find_jpegtran() -> str | None:
    """The path of `jpegtran`; None if it is not installed."""
    return shutil.which(JPEGTRAN)


def with_restart_markers(encoded: bytes, jpegtran: str, min_pixels: int = MIN_PIXELS) -> bytes | None:
    """The same image with restart markers and a table of them; None if it has to stay as it is."""
    frame = _frame(encoded)
    if frame is None or frame.height * frame.width < min_pixels:
        return None
    interval = frame.interval()
    if interval is None:
        return None
    command = [jpegtran, "-copy", "all", "-optimize", "-restart", f"{interval}B"]
    try:
        done = subprocess.run(command, input=encoded, capture_output=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:  # 2 if it had to guess at damaged data
        return None
    transcoded = _with_table(done.stdout, interval)
    return transcoded if transcoded is not None and _same_pixels(encoded, transcoded) else None


@dataclass(frozen=True)
class _Frame:
    height: int
    width: int
    mcu_height: int
    mcu_width: int

    @property
    def rows(self) -> int:
        return -(-self.height // self.mcu_height)

    @property
    def mcus_per_row(self) -> int:
        return -(-self.width // self.mcu_width)

    def interval(self) -> int | None:
        """MCUs a segment: the divisor of a row's MCUs whose width has the ratio closest to 1 to SEGMENT_WIDTH, or None."""
        wanted = max(SEGMENT_WIDTH, self.width / _WIDTHS_PER_IMAGE)
        divisors = [n for n in range(1, self.mcus_per_row + 1) if self.mcus_per_row % n == 0]
        fitting = [n for n in divisors if self.rows * (self.mcus_per_row // n) <= MAX_SEGMENTS]
        return min(fitting, key=lambda n: abs(math.log(n * self.mcu_width / wanted)), default=None)


def _frame(encoded: bytes) -> _Frame | None:
    """The frame of an 8-bit Huffman-coded JPEG with one or three components; None for everything else."""
    segments = jpeg_segments(encoded)
    frames = [segment for segment in segments or [] if segment.is_frame]
    if segments is None or len(frames) != 1 or frames[0].marker not in HUFFMAN_FRAMES:
        return None
    if any(encoded[segment.start + 4 : segment.start + 8] == b"MPF\0" for segment in segments):
        return None  # several images in one file; jpegtran keeps only the first
    start = frames[0].start
    precision, components = encoded[start + 4], encoded[start + 9]
    height, width = int.from_bytes(encoded[start + 5 : start + 7]), int.from_bytes(encoded[start + 7 : start + 9])
    if precision != 8 or components not in (1, 3) or not height or not width:
        return None
    sampling = encoded[start + 11 : start + 10 + 3 * components : 3]
    # The MCU of a scan with one component is one block, whatever its sampling factors (ITU-T T.81, A.2.2).
    mcu = (8, 8) if components == 1 else (8 * max(each & 15 for each in sampling), 8 * max(each >> 4 for each in sampling))
    return _Frame(height, width, *mcu)


def _with_table(encoded: bytes, interval: int) -> bytes | None:
    """Adds the restart table to a JPEG that has a restart marker every `interval` MCUs; None if that is not so."""
    segments, frame = jpeg_segments(encoded), _frame(encoded)
    if segments is None or frame is None or frame.mcus_per_row % interval or not encoded.endswith(_END_OF_IMAGE):
        return None
    scan = segments[-1]
    ends = [match.end() for match in _RESTART_MARKER.finditer(encoded, scan.end)]
    lengths = np.diff([scan.end, *ends, len(encoded)])
    columns = frame.mcus_per_row // interval
    if len(lengths) != frame.rows * columns or lengths.max() > MAX_SEGMENT_BYTES:
        return None

    def joined(some: list[JpegSegment]) -> bytes:
        return b"".join(encoded[segment.start : segment.end] for segment in some)

    needed = [segment for segment in segments[:-1] if is_needed(segment)]
    # Without the table of an earlier transcoding.
    metadata = [segment for segment in segments[:-1] if not is_needed(segment) and not is_table(encoded, segment)]
    position = next(k for k, segment in enumerate(needed) if segment.is_frame)
    # In a cut-out, SOI precedes the tables; the height follows the frame's marker, length and precision.
    height_at = 2 + len(joined(needed[:position])) + 5
    table = encode_table(lengths, height_at, columns, interval, (frame.mcu_height, frame.mcu_width))
    return encoded[:2] + joined(metadata) + joined(needed) + table + encoded[scan.start :]


def _same_pixels(encoded: bytes, other: bytes) -> bool:
    try:
        return np.array_equal(decode(encoded), decode(other))
    except OSError:
        return False
