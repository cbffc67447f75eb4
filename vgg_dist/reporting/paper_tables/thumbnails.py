"""Small pictures for the page, embedded in it."""

from __future__ import annotations

import base64
import io
import warnings

import numpy as np
from PIL import Image

from pipelines.pixels import open_image

SIDE = 160  # pixels, twice the size they are shown at


def thumbnail(encoded: bytes) -> str | None:
    """A data URL of the picture, at most SIDE pixels high and 2 SIDE wide; None if it cannot be decoded.

    The EXIF orientation is ignored, so the picture is shown as the net saw it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; they are decoded all the same
            with open_image(encoded, None) as image:
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                small = _as_rgb(image)
    except Exception:  # PIL raises many kinds for a damaged file
        return None
    small.thumbnail((2 * SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _as_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: 16-bit, 32-bit and float grey by their range, transparency over white."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        span = np.ptp(values) or 1.0
        return Image.fromarray(np.uint8(255 * (values - values.min()) / span)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
