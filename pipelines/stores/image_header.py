"""The size of an encoded image, and what a JPEG's header says, without decoding."""

from __future__ import annotations

from typing import NamedTuple

from pipelines.pixels import PNG_SIGNATURE, open_image, refusal

FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, without DHT, JPG and DAC
HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; the others are lossless, arithmetic-coded, ...
_START_OF_SCAN = 0xDA


class JpegSegment(NamedTuple):
    """A marker segment: its marker's second byte, and where it starts (at the marker) and ends in the file."""

    marker: int
    start: int
    end: int

    @property
    def is_frame(self) -> bool:
        """Whether it is a start-of-frame segment, which has the image's size."""
        return self.marker in FRAME_MARKERS


def jpeg_segments(encoded: bytes) -> list[JpegSegment] | None:
    """The segments up to the first start of scan, which is the last of them; None if this is not a complete JPEG header."""
    if encoded[:2] != b"\xff\xd8":
        return None
    segments, at, marker = list[JpegSegment](), 2, 0
    while marker != _START_OF_SCAN:
        if at + 4 > len(encoded):
            return None
        marker, end = encoded[at + 1], at + 2 + int.from_bytes(encoded[at + 2 : at + 4])
        if encoded[at] != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or end > len(encoded) or end < at + 4:
            return None
        segments.append(JpegSegment(marker, at, end))
        at = end
    return segments


class JpegFrame(NamedTuple):
    """What the frame header of a JPEG says, in pixels. An MCU is the smallest unit that is coded (ITU-T T.81, A.2)."""

    height: int
    width: int
    mcu_height: int
    mcu_width: int

    @property
    def mcu_rows(self) -> int:
        """Rows of MCUs; the last one may reach beyond the image."""
        return -(-self.height // self.mcu_height)

    @property
    def mcus_per_row(self) -> int:
        """MCUs in a row; the last one may reach beyond the image."""
        return -(-self.width // self.mcu_width)


def jpeg_frame(encoded: bytes) -> JpegFrame | None:
    """The frame of an 8-bit Huffman-coded JPEG with one or three components; None for everything else."""
    segments = jpeg_segments(encoded)
    frames = [segment for segment in segments or [] if segment.is_frame]
    if len(frames) != 1 or frames[0].marker not in HUFFMAN_FRAMES:
        return None
    start, end = frames[0].start, frames[0].end
    precision, components = encoded[start + 4], encoded[start + 9]
    height, width = int.from_bytes(encoded[start + 5 : start + 7]), int.from_bytes(encoded[start + 7 : start + 9])
    if precision != 8 or components not in (1, 3) or end != start + 10 + 3 * components or not height or not width:
        return None
    if components == 1:
        return JpegFrame(height, width, 8, 8)  # an MCU is one block then, whatever the sampling factors (A.2.2)
    sampling = encoded[start + 11 : end : 3]
    return JpegFrame(height, width, 8 * max(each & 15 for each in sampling), 8 * max(each >> 4 for each in sampling))


def image_size(encoded: bytes) -> tuple[int, int]:
    """(height, width) of the stored pixels, from the header alone. Raises OSError if it is not an image."""
    size = _jpeg_size(encoded) or _png_size(encoded)
    if size is None:
        try:
            with open_image(encoded, None) as image:
                size = image.height, image.width
        except Exception as error:  # Pillow's plugins raise many types for damaged headers
            raise OSError(refusal(encoded) or str(error)) from error
    if 0 in size:
        raise OSError(refusal(encoded) or f"{size[0]} pixels high, {size[1]} wide")
    return size


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) from a JPEG's frame header (ITU-T T.81, B.2.2), ten times as fast as Pillow; None if not a JPEG."""
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while encoded[at : at + 1] == b"\xff" and at + 9 <= len(encoded):
        if encoded[at + 1] in FRAME_MARKERS:
            return int.from_bytes(encoded[at + 5 : at + 7]), int.from_bytes(encoded[at + 7 : at + 9])
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    return None


def _png_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) from a PNG's first chunk. Pillow would refuse a PNG that has damaged metadata before the pixels."""
    if not encoded.startswith(PNG_SIGNATURE) or encoded[12:16] != b"IHDR" or len(encoded) < 24:
        return None
    return int.from_bytes(encoded[20:24]), int.from_bytes(encoded[16:20])
