"""The pixels of an image file: the one definition that training, validation, evaluation, prediction and `check` share.

JPEG, PNG, BMP and WebP are read, by what is in the file and not by its name. Colours become RGB: grey is repeated, CMYK and
palettes are converted, transparency is dropped. 16 bits are scaled to 8. The first picture of several is taken. EXIF
orientation and colour profiles are ignored. What was cut is refused, a PNG without its last chunk also where all its pixels
are there.

Pillow decodes. `pipelines.decodable` says for which files DALI's decoders give the same.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples of a pixel (PNG specification, 11.2.1)
# First row and column, and steps, of an interlaced PNG's passes (PNG specification, 8.2).
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def decode(encoded: bytes) -> NDArray[np.uint8]:
    """The pixels (height, width, 3) as stored. OSError, in the decoder's words, for what cannot be decoded."""
    if not encoded:
        raise OSError("zero bytes")
    try:
        return _png(encoded) if encoded.startswith(PNG_SIGNATURE) else _by_pillow(encoded)
    except Image.UnidentifiedImageError as error:
        raise OSError(_what_it_is(encoded)) from error
    except Exception as error:  # Pillow's plugins raise all kinds on damaged data
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def refusal(encoded: bytes) -> str | None:
    """Why an image cannot be decoded; None if it can."""
    try:
        decode(encoded)
    except OSError as error:
        return str(error)
    return None


def _by_pillow(encoded: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def _what_it_is(encoded: bytes) -> str:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            kind = image.format
    except Exception:  # as above
        kind = None
    if kind is None or kind in (*_FORMATS, "MPO"):
        return f"not an image, begins with {encoded[:8]!r}"
    return f"is {kind}; JPEG, PNG, BMP and WebP are read"


def _png(encoded: bytes) -> NDArray[np.uint8]:
    """From the chunks that make up the pixels: damaged texts, profiles and animations do not matter, as to libpng."""
    header, palette, data = b"", b"", []
    for kind, content in _chunks(encoded):
        if kind == b"IHDR":
            header = content
        elif kind == b"PLTE":
            palette = content
        elif kind == b"IDAT":
            data.append(content)
    depth, colour = header[8:10] if len(header) == 13 else (0, 0)
    if depth != 16 or colour not in _SAMPLES:
        return _by_pillow(_as_png(header, palette, b"".join(data)))
    high, low = (_by_pillow(part).astype(np.uint32) for part in _bytewise(header, b"".join(data)))
    return (((high << 8) + low + 128) // 257).astype(np.uint8)


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of a PNG's chunks up to the last. OSError if that is missing or pixels are damaged."""
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


def _as_png(header: bytes, palette: bytes, data: bytes) -> bytes:
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", data), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
        if content or kind == b"IEND"
    )


def _bytewise(header: bytes, data: bytes) -> Iterator[bytes]:
    """The PNG of 8 bits with the high bytes of one of 16 bits, and that with the low bytes.

    Pillow drops the low bytes, or clips. A PNG's filters predict each byte from the same byte of neighbouring pixels, so the
    filtered data can be parted before they are undone.
    """
    width, height, _, colour, *_, interlaced = struct.unpack(">IIBBBBB", header)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(height - top) // down), -(-(width - left) // right)) for top, left, down, right in passes]
    shapes = [(rows, 1 + 2 * _SAMPLES[colour] * columns) for rows, columns in sizes if rows > 0 and columns > 0]
    # The size is checked by Pillow before all that memory is asked for.
    Image.open(io.BytesIO(_as_png(header, b"", data)), formats=_FORMATS).close()
    expected = sum(rows * columns for rows, columns in shapes)
    raw = zlib.decompressobj().decompress(data, expected)
    if len(raw) < expected:
        raise OSError("image file is truncated")
    filtered, at = [], 0
    for rows, columns in shapes:
        filtered.append(np.frombuffer(raw, np.uint8, rows * columns, at).reshape(rows, columns))
        at += rows * columns
    for first in (1, 2):
        parts = (np.concatenate([lines[:, :1], lines[:, first::2]], axis=1).tobytes() for lines in filtered)
        yield _as_png(header[:8] + b"\x08" + header[9:], b"", zlib.compress(b"".join(parts), 1))
