"""Transcodes JPEGs without loss, so that windows can be cut out of them (`pipelines.stores.restart_table`).

libjpeg-turbo's `jpegtran` writes the same DCT coefficients again, as a sequential JPEG with optimised Huffman tables and
restart markers. What cannot be transcoded, would gain nothing, or does not decode to the same pixels stays as it is: other
formats, CMYK, arithmetic coding, 12 bits, damaged files, small images.

`jpegtran` is a program, because no package on PyPI offers a lossless transform with restart markers (TurboJPEG's API writes
them only when it compresses).
"""

from __future__ import annotations

import math
import shutil
import subprocess

import numpy as np

from pipelines.pixels import decode
from pipelines.stores.image_header import JpegFrame, jpeg_frame, jpeg_segments
from pipelines.stores.restart_table import MAX_SEGMENTS, with_table

JPEGTRAN = "jpegtran"
NOT_INSTALLED = (
    "jpegtran is not installed (Debian: apt-get install libjpeg-turbo-progs; conda: libjpeg-turbo; Homebrew: jpeg-turbo)"
)
NO_JPEGTRAN = f"{NOT_INSTALLED}: the shards get no restart markers, and training decodes more of each image than it keeps"
MIN_PIXELS = 128 * 128  # of smaller images a crop takes nearly everything, and their headers weigh more
# Width of a segment, px. Narrower ones cost bytes; wider ones make cut-outs larger than windows.
# `python -m vgg_dist.benchmark segments` measures both.
SEGMENT_WIDTH = 48
WIDE_IMAGE = 480  # px; in wider images segments are wider in proportion, because the windows under crops are, too
_TIMEOUT_S = 120.0


def find_jpegtran() -> str | None:
    """The path of `jpegtran`; None if it is not installed."""
    return shutil.which(JPEGTRAN)


def with_restart_markers(
    encoded: bytes, jpegtran: str, min_pixels: int = MIN_PIXELS, *, segment_width: float = SEGMENT_WIDTH
) -> bytes | None:
    """The same image with restart markers and a table of them; None if it has to stay as it is.

    `segment_width`: the wanted width of a segment, px, in images up to WIDE_IMAGE px wide; infinity: a segment for each row.
    """
    frame = jpeg_frame(encoded)
    if frame is None or frame.height * frame.width < min_pixels or _has_more_images(encoded):
        return None
    interval = _interval(frame, segment_width)
    if interval is None:
        return None
    command = [jpegtran, "-copy", "all", "-optimize", "-restart", f"{interval}B"]
    try:
        done = subprocess.run(command, input=encoded, capture_output=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:  # 2 if it had to guess at damaged data
        return None
    transcoded = with_table(done.stdout)
    return transcoded if transcoded is not None and _same_pixels(encoded, transcoded) else None


def _interval(frame: JpegFrame, segment_width: float) -> int | None:
    """MCUs a segment: of the divisors of a row's MCUs, the one nearest in ratio to the wanted width; None if none fits."""
    wanted = min(segment_width * max(1, frame.width / WIDE_IMAGE), frame.mcus_per_row * frame.mcu_width)
    divisors = [n for n in range(1, frame.mcus_per_row + 1) if frame.mcus_per_row % n == 0]
    fitting = [n for n in divisors if frame.mcu_rows * (frame.mcus_per_row // n) <= MAX_SEGMENTS]
    return min(fitting, key=lambda n: abs(math.log(n * frame.mcu_width / wanted)), default=None)


def _has_more_images(encoded: bytes) -> bool:
    """Whether the file has several images (Multi-Picture Format), of which jpegtran would keep only the first."""
    segments = jpeg_segments(encoded) or []
    return any(encoded.startswith(b"MPF\0", segment.start + 4) for segment in segments)


def _same_pixels(encoded: bytes, other: bytes) -> bool:
    try:
        return np.array_equal(decode(encoded), decode(other))
    except OSError:
        return False
