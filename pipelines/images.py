"""What an encoded image is: its size from the header, and what `python -m pipelines.prepare check` finds in it."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

from PIL import Image

UNREADABLE = "unreadable"
# Formats that both loaders decode, and the file extensions that go with them. MPO is a JPEG with more JPEGs behind it.
_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
}
_GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "F"}
_EXIF_ORIENTATION = 0x0112
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, but for DHT, JPG and DAC


@dataclass(frozen=True)
class Finding:
    """One remarkable thing about one image."""

    kind: str
    """`unreadable`, or harmless: `CMYK`, `grey`, `alpha`, `16-bit`, `animated`, `EXIF-rotated`, `mis-named`."""
    detail: str
    """What exactly, for a person."""


def image_size(encoded: bytes) -> tuple[int, int]:
    """(height, width) in px as stored, from the header alone. OSError where it is not an image."""
    size = _jpeg_size(encoded)
    if size is None:
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                size = image.height, image.width
        except Exception as error:  # Pillow's plugins raise all kinds on damaged headers
            raise OSError(str(error) or type(error).__name__) from error
    if 0 in size:
        raise OSError(f"{size[0]} pixels high, {size[1]} wide")
    return size


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """From a JPEG's frame header (ITU-T T.81, B.2.2), ten times as fast as Pillow; None for what is not a plain JPEG."""
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while encoded[at : at + 1] == b"\xff" and at + 9 <= len(encoded):
        if encoded[at + 1] in _FRAME_MARKERS:
            return int.from_bytes(encoded[at + 5 : at + 7]), int.from_bytes(encoded[at + 7 : at + 9])
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    return None


def inspect(encoded: bytes, name: str) -> list[Finding]:
    """Decodes an image in full and lists what is remarkable; a plain RGB image of the right extension gives nothing."""
    if not encoded:
        return [Finding(UNREADABLE, "zero bytes")]
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.format not in _EXTENSIONS:
                return [Finding(UNREADABLE, f"is {image.format}; JPEG, PNG, BMP and WebP are read")]
            image.load()
            return _remarks(image, image.format, name)
    except Image.UnidentifiedImageError:
        return [Finding(UNREADABLE, f"not an image, begins with {encoded[:8]!r}")]
    except Exception as error:  # Pillow's plugins raise all kinds on damaged data
        return [Finding(UNREADABLE, " ".join(str(error).split()) or type(error).__name__)]


def _remarks(image: Image.Image, kind: str, name: str) -> list[Finding]:
    findings = []
    extension = os.path.splitext(name)[1].lower()
    if extension not in _EXTENSIONS[kind]:
        findings.append(Finding("mis-named", f"is {kind}, named {extension}"))
    if image.mode in ("CMYK", "YCCK"):
        findings.append(Finding("CMYK", "four colours"))
    if image.mode in _GREY_MODES:
        findings.append(Finding("grey", f"mode {image.mode}"))
    if image.mode.startswith(("I", "F")):
        findings.append(Finding("16-bit", f"mode {image.mode}"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        findings.append(Finding("alpha", f"mode {image.mode}"))
    # The further pictures of an MPO are previews or the other eye, not an animation.
    if kind != "MPO" and getattr(image, "n_frames", 1) > 1:
        findings.append(Finding("animated", f"{getattr(image, 'n_frames', 1)} frames; the first is taken"))
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation in range(2, 9):
        findings.append(Finding("EXIF-rotated", f"orientation {orientation}; used as stored"))
    return findings
