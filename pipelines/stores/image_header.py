"""What an encoded image is: its size from the header, and what `python -m pipelines.prepare check` finds in it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from PIL import Image

from pipelines.pixels import MAX_PIXELS, PNG_SIGNATURE, open_image, refusal
from pipelines.stores.quarantine import UNREADABLE

# Formats that both loaders decode, and the file extensions that go with them. MPO is a JPEG with more JPEGs behind it.
_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
}
_GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "F"}
_EXIF_ORIENTATION = 0x0112
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, but for DHT, JPG and DAC


@dataclass(frozen=True)
class Finding:
    """One remarkable thing about one image."""

    kind: str
    """`unreadable`, or harmless: `CMYK`, `grey`, `alpha`, `16-bit`, `animated`, `EXIF-rotated`, `mis-named`,
    `damaged metadata`."""
    detail: str
    """What exactly, for a person."""


def image_size(encoded: bytes) -> tuple[int, int]:
    """(height, width) in px as stored, from the header alone. OSError where it is not an image."""
    size = _jpeg_size(encoded) or _png_size(encoded)
    if size is None:
        try:
            with open_image(encoded, None) as image:
                size = image.height, image.width
        except Exception as error:  # Pillow's plugins raise all kinds on damaged headers
            raise OSError(refusal(encoded) or str(error)) from error
    if 0 in size:
        raise OSError(refusal(encoded) or f"{size[0]} pixels high, {size[1]} wide")
    return size


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """From a JPEG's frame header (ITU-T T.81, B.2.2), ten times as fast as Pillow; None for what is not a plain JPEG."""
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while encoded[at : at + 1] == b"\xff" and at + 9 <= len(encoded):
        if encoded[at + 1] in FRAME_MARKERS:
            return int.from_bytes(encoded[at + 5 : at + 7]), int.from_bytes(encoded[at + 7 : at + 9])
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    return None


def _png_size(encoded: bytes) -> tuple[int, int] | None:
    """From a PNG's first chunk: Pillow would also read, and refuse, what is damaged between it and the pixels."""
    if not encoded.startswith(PNG_SIGNATURE) or encoded[12:16] != b"IHDR" or len(encoded) < 24:
        return None
    return int.from_bytes(encoded[20:24]), int.from_bytes(encoded[16:20])


def inspect(encoded: bytes, name: str, max_pixels: int = MAX_PIXELS) -> list[Finding]:
    """Decodes an image in full and lists what is remarkable; a plain RGB image of the right extension gives nothing."""
    if (reason := refusal(encoded, max_pixels)) is not None:
        return [Finding(UNREADABLE, reason)]
    try:
        with open_image(encoded) as image:
            return _remarks(image, encoded, name)
    except Exception as error:  # a PNG's damaged text or profile, which the pixels do not depend on
        return [Finding("damaged metadata", " ".join(str(error).split()) or type(error).__name__)]


def _remarks(image: Image.Image, encoded: bytes, name: str) -> list[Finding]:
    findings, kind = [], str(image.format)
    extension = os.path.splitext(name)[1].lower()
    if extension not in _EXTENSIONS[kind]:
        findings.append(Finding("mis-named", f"is {kind}, named {extension}"))
    if image.mode in ("CMYK", "YCCK"):
        findings.append(Finding("CMYK", "four colours"))
    if image.mode in _GREY_MODES:
        findings.append(Finding("grey", f"mode {image.mode}"))
    if kind == "PNG" and encoded[24] == 16:
        findings.append(Finding("16-bit", "scaled to 8 bits"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        findings.append(Finding("alpha", f"mode {image.mode}"))
    # The further pictures of an MPO are previews or the other eye, not an animation.
    if kind != "MPO" and getattr(image, "n_frames", 1) > 1:
        findings.append(Finding("animated", f"{getattr(image, 'n_frames', 1)} frames; the first is taken"))
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation in range(2, 9):
        findings.append(Finding("EXIF-rotated", f"orientation {orientation}; used as stored"))
    return findings
