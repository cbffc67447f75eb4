"""Decodes image files: the one definition of their pixels for training, validation, evaluation, prediction and `check`.

JPEG, PNG, BMP and WebP are read, recognised by content, not by name. All colours become RGB: grey is repeated, CMYK and
palettes are converted, transparency is dropped, 16 bits are scaled to 8. Of several images in a file, the first is used.
EXIF orientation and colour profiles are ignored.

Truncated images are refused, also a PNG that lacks only its last chunk. So are images with more pixels than a limit, before
memory is allocated for them.

Pillow decodes. `pipelines.loading.decodable` decides for which files DALI's decoders give the same pixels.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 250_000_000
"""Default of --max-pixels; it allows photographs of 200 megapixels."""
MAX_PIXELS_IN_MEMORY = 2**27  # decoded by all threads of a process together, about 1 GB; a larger image is decoded alone
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
if "PILLOW_BLOCK_SIZE" not in os.environ:
    # With blocks of 16 MB, the default, the C library keeps the memory of a large image in each thread that decoded one.
    Image.core.set_block_size(2**26)
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples per pixel (PNG specification, 11.2.1)
# First row, first column, row step and column step of an interlaced PNG's passes (PNG specification, 8.2).
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


@contextmanager
def decoded(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The image, in mode RGB, as stored. Its pixels count towards MAX_PIXELS_IN_MEMORY until the context ends.

    Raises OSError, with the decoder's message, if it cannot be decoded or has more than `max_pixels` pixels.
    """
    with _as_os_error(encoded):
        header, height, width = _header(encoded)
        if height * width > max_pixels:
            raise OSError(f"{width} x {height} pixels, more than --max-pixels {max_pixels}")
    # Decoding 16 bits takes several copies.
    with _budget.take(height * width * (1 + 2 * (header is not None and header.depth == 16))):
        with _as_os_error(encoded):
            picture = _by_pillow(encoded) if header is None else _png(header)
        yield picture


def decode(encoded: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The pixels (height, width, 3) as stored. Raises OSError as `decoded` does."""
    with decoded(encoded, max_pixels) as picture:
        return np.asarray(picture)


def refusal(encoded: bytes, max_pixels: int = MAX_PIXELS) -> str | None:
    """Why an image cannot be decoded; None if it can."""
    try:
        with decoded(encoded, max_pixels):
            return None
    except OSError as error:
        return str(error)


def open_image(encoded: bytes, formats: tuple[str, ...] | None = _FORMATS) -> Image.Image:
    """Pillow's `Image.open` without Pillow's pixel limit. That limit is global; it is restored afterwards."""
    with _pillow:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(encoded), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_pillow = threading.Lock()


class _PixelBudget:
    """Lets threads together hold `limit` pixels, or one larger image."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._changed = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        pixels = min(pixels, self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_budget = _PixelBudget(MAX_PIXELS_IN_MEMORY)


@contextmanager
def _as_os_error(encoded: bytes) -> Iterator[None]:
    try:
        yield
    except Image.UnidentifiedImageError as error:
        raise OSError(_what_it_is(encoded)) from error
    except Exception as error:  # Pillow's plugins raise many types for damaged data
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def _header(encoded: bytes) -> tuple[_PNG | None, int, int]:
    """The parts of a PNG (None for other formats), and the height and width in px."""
    if not encoded:
        raise OSError("zero bytes")
    if not encoded.startswith(PNG_SIGNATURE):
        with open_image(encoded) as image:
            return None, image.height, image.width
    parts = _PNG.of(encoded)
    with open_image(parts.encode()) as image:
        return parts, image.height, image.width


def _by_pillow(encoded: bytes) -> Image.Image:
    with open_image(encoded) as image:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


def _what_it_is(encoded: bytes) -> str:
    try:
        with open_image(encoded, None) as image:
            kind = image.format
    except Exception:  # as above
        kind = None
    if kind is None or kind in (*_FORMATS, "MPO"):
        return f"not an image, begins with {encoded[:8]!r}"
    return f"is {kind}; only JPEG, PNG, BMP and WebP are supported"


@dataclass(frozen=True)
class _PNG:
    """The parts of a PNG that its pixels depend on. Like libpng, this ignores damage in texts, profiles and animations."""

    header: bytes
    palette: bytes
    data: bytes

    @classmethod
    def of(cls, encoded: bytes) -> _PNG:
        """Parses a PNG. Raises OSError if its end is missing or its pixels are damaged."""
        header, palette, data = b"", b"", []
        for kind, content in _chunks(encoded):
            if kind == b"IHDR":
                header = content
            elif kind == b"PLTE":
                palette = content
            elif kind == b"IDAT":
                data.append(content)
        return cls(header, palette, b"".join(data))

    @property
    def depth(self) -> int:
        """Bits per sample; 0 if the header is invalid."""
        return self.header[8] if len(self.header) == 13 and self.header[9] in _SAMPLES else 0

    def encode(self) -> bytes:
        """A PNG of only these parts."""
        chunks = [(b"IHDR", self.header), (b"PLTE", self.palette), (b"IDAT", self.data), (b"IEND", b"")]
        return PNG_SIGNATURE + b"".join(
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in chunks
            if content or kind == b"IEND"
        )


def _png(parts: _PNG) -> Image.Image:
    if parts.depth != 16:
        return _by_pillow(parts.encode())
    high, low = (np.array(_by_pillow(part)) for part in _split_bytes(parts))
    for top, bottom in zip(high, low, strict=True):  # row by row, because the sums take eight times the memory
        top[:] = ((top.astype(np.uint32) << 8) + bottom + 128) // 257
    return Image.fromarray(high)


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of a PNG's chunks. Raises OSError if the last chunk is missing or pixels are damaged."""
    at, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(encoded[at : at + 4]), encoded[at + 4 : at + 8]
        content = encoded[at + 8 : at + 8 + length]
        checksum = encoded[at + 8 + length : at + 12 + length]
        if len(checksum) < 4:
            raise OSError("image file is truncated (its last chunk, IEND, is missing)")
        if kind in (b"IHDR", b"PLTE", b"IDAT") and int.from_bytes(checksum) != zlib.crc32(kind + content):
            raise OSError(f"broken PNG file (bad checksum in {kind.decode()})")
        yield kind, content
        at += 12 + length


def _split_bytes(parts: _PNG) -> Iterator[bytes]:
    """Two 8-bit PNGs: one with the high bytes of a 16-bit PNG, one with its low bytes.

    Pillow itself drops the low bytes, or clips. PNG filters predict each byte from the same byte of neighbouring pixels, so
    high and low bytes can be separated while they are still filtered.
    """
    width, height, _, colour, *_, interlaced = struct.unpack(">IIBBBBB", parts.header)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(height - top) // down), -(-(width - left) // right)) for top, left, down, right in passes]
    shapes = [(rows, 1 + 2 * _SAMPLES[colour] * columns) for rows, columns in sizes if rows > 0 and columns > 0]
    expected = sum(rows * columns for rows, columns in shapes)
    raw = zlib.decompressobj().decompress(parts.data, expected)
    if len(raw) < expected:
        raise OSError("image file is truncated")
    filtered, at = [], 0
    for rows, columns in shapes:
        filtered.append(np.frombuffer(raw, np.uint8, rows * columns, at).reshape(rows, columns))
        at += rows * columns
    header = parts.header[:8] + b"\x08" + parts.header[9:]
    for first in (1, 2):
        half = (np.concatenate([lines[:, :1], lines[:, first::2]], axis=1).tobytes() for lines in filtered)
        yield _PNG(header, b"", zlib.compress(b"".join(half), 1)).encode()
