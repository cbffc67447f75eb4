"""Images with very many pixels or a very long side."""

from __future__ import annotations

import base64
import io
from functools import cache

import numpy as np
from PIL import Image

# 12240 x 16320 pixels of grey, arithmetic-coded: a photograph of 200 megapixels in 155 bytes.
PHONE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/yQALCC/QP8ABAREA/8wABgAQEAX/2gAIAQEAAD8A/wB4mOOoAAAAAAAAAAAAARX/AGuQgQAAAAAAAAA2b0CRHP/Z"
)


def noise(height: int, width: int, kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@cache
def large_images() -> dict[str, bytes]:
    smooth, file = Image.open(io.BytesIO(noise(30, 40, "PNG"))).resize((1200, 900), Image.Resampling.BICUBIC), io.BytesIO()
    smooth.save(file, "JPEG")
    return {
        "strip, 3000 x 1": noise(1, 3000, "PNG"),
        "strip, 1 x 3000": noise(3000, 1, "PNG"),
        "strip, 20000 x 2": noise(2, 20000, "PNG"),
        "strip, 3001 x 7": noise(7, 3001, "WEBP", lossless=True),
        "strip, JPEG": noise(3000, 5, "JPEG", quality=95),
        "long, no whole pixel near": noise(96, 20000, "BMP"),
        "photograph": file.getvalue(),
    }
