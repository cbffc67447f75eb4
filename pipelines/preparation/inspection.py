"""What `python -m pipelines.prepare check` finds in an image, and in all images of a store."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipelines.pixels import MAX_PIXELS, open_image, refusal
from pipelines.progress import Progress
from pipelines.stores.quarantine import UNREADABLE
from pipelines.stores.sample_store import SampleStore

# The formats that both loaders decode, and their file extensions. An MPO file is a JPEG followed by more JPEGs.
_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
}
_GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "F"}
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Finding:
    """Something unusual about one image."""

    kind: str
    """`unreadable`, or harmless: `CMYK`, `grey`, `alpha`, `16-bit`, `animated`, `EXIF-rotated`, `mis-named`,
    `damaged metadata`, `damaged copy` (a shard in the cache that was copied again)."""
    detail: str
    """Details for the user."""


def inspect(encoded: bytes, name: str, max_pixels: int = MAX_PIXELS) -> list[Finding]:
    """Decodes an image in full and lists what is unusual: nothing, for a plain RGB image with the right extension."""
    if (reason := refusal(encoded, max_pixels)) is not None:
        return [Finding(UNREADABLE, reason)]
    try:
        with open_image(encoded) as image:
            return _unusual(image, encoded, name)
    except Exception as error:  # damaged text or profile in a PNG, which does not affect the pixels
        return [Finding("damaged metadata", " ".join(str(error).split()) or type(error).__name__)]


def _unusual(image: Image.Image, encoded: bytes, name: str) -> list[Finding]:
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
    # The other images in an MPO are previews or the second view of a stereo pair, not an animation.
    if kind != "MPO" and getattr(image, "n_frames", 1) > 1:
        findings.append(Finding("animated", f"{getattr(image, 'n_frames', 1)} frames; the first is taken"))
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation in range(2, 9):
        findings.append(Finding("EXIF-rotated", f"orientation {orientation}; used as stored"))
    return findings


def inspect_all(store: SampleStore, split: str, threads: int, max_pixels: int) -> list[tuple[str, Finding]]:
    """(name, finding) for all that is unusual, in the order of the samples. Shows a progress bar."""

    def inspect_some(indices: np.ndarray) -> list[tuple[str, Finding]]:
        found = []
        ahead.reached(int(indices.min(initial=len(store))) - threads * len(indices))  # other threads may be behind
        for index in indices.tolist():
            name = store.name(index)
            try:
                if replaced := store.check_bytes(index):
                    found.append((name, Finding("damaged copy", replaced)))
                found += [(name, finding) for finding in inspect(store.read(index), name, max_pixels)]
            except OSError as error:
                found.append((name, Finding(UNREADABLE, str(error).removeprefix(f"{name}: "))))
            progress.update()
        return found

    # In chunks, because a million futures would take more memory than everything else here.
    chunks = np.array_split(np.arange(len(store)), len(store) // 64 + 1)
    in_order = np.arange(len(store))
    with (
        store.fetch_ahead(in_order, in_order) as ahead,
        Progress(total=len(store), desc=f"checking {split}", unit="image") as progress,
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        return [item for found in pool.map(inspect_some, chunks) for item in found]
