"""JPEGs of every kind of chroma sampling and coding, made by libjpeg-turbo's cjpeg."""

from __future__ import annotations

import io
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

needs_jpegtran = pytest.mark.skipif(
    shutil.which("jpegtran") is None or shutil.which("cjpeg") is None, reason="jpegtran and cjpeg are not installed"
)

SAMPLINGS = {
    "4:4:4": ["-sample", "1x1"],
    "4:2:2": ["-sample", "2x1"],
    "4:2:0": ["-sample", "2x2"],
    "4:4:0": ["-sample", "1x2"],
    "4:1:1": ["-sample", "4x1"],
    "grey": ["-grayscale"],
    "RGB": ["-rgb"],
}


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise with some detail, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """The file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def jpeg(height: int, width: int, *options: str, seed: int = 0) -> bytes:
    """A JPEG of `pixels`, with cjpeg's `options`."""
    picture = saved(Image.fromarray(pixels(height, width, seed)), "PPM")
    return subprocess.run(["cjpeg", *options], input=picture, capture_output=True, check=True).stdout
