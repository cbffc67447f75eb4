"""The built-in data: ten classes of shapes and textures, drawn image by image; the same seed gives the same images.

Colour, polarity, position, size, tilt, background and noise are independent of the class, so a net must learn the form.
Objects are large and central, and no two classes are mirror images, so random crops and flips preserve the class. Used as
`--data synthetic`, or with any of its settings as `--data synthetic:train=4000,val=500,size=64,seed=0`;
`python -m pipelines.prepare synthetic` writes it as files.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

from pipelines.layouts.image_files import LeftOut
from pipelines.stores.sample_store import SampleStore

CLASS_NAMES = [
    "checkerboard",
    "cross",
    "disc",
    "dots",
    "horizontal_stripes",
    "ring",
    "square",
    "star",
    "triangle",
    "vertical_stripes",
]
_TEXTURES = {"checkerboard", "dots", "horizontal_stripes", "vertical_stripes"}
_SPLIT_KEYS = {"train": 0, "val": 1}
_MIN_CONTRAST = 70.0  # grey levels between the object's and the background's luminance
_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """The settings of `synthetic:train=...,val=...,size=...,seed=...`."""

    train: int = 4000
    """Number of training images."""
    val: int = 500
    """Number of validation images."""
    size: int = 64
    """Smallest side of an image, px; the longer side is up to 4/3 of it."""
    seed: int = 0
    """Seed of the images; the classes are always the same."""

    def __post_init__(self) -> None:
        for field, least in (("train", 10), ("val", 1), ("size", 16), ("seed", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"--data synthetic: {field}={getattr(self, field)}: must be at least {least}")

    @classmethod
    def parse(cls, location: str) -> SyntheticSpec:
        """Parses `synthetic` or `synthetic:key=number,...`. Raises ValueError for anything else."""
        kind, _, settings = location.partition(":")
        allowed = [field.name for field in fields(cls)]
        values: dict[str, int] = {}
        for setting in settings.split(",") if settings else []:
            key, _, number = setting.partition("=")
            if key not in allowed or not number.isdecimal():
                raise ValueError(f"--data {location}: {setting!r} is not one of {', '.join(f'{a}=NUMBER' for a in allowed)}")
            values[key] = int(number)
        if kind != "synthetic":
            raise ValueError(f"--data {location}: must begin with 'synthetic'")
        return cls(**values)


class SyntheticStore(SampleStore):
    """One split. An image is drawn on its first read and kept in memory: about 3 kB at the default size."""

    def __init__(self, spec: SyntheticSpec, split: str) -> None:
        self.spec = spec
        self.split = split
        self.class_names = list(CLASS_NAMES)
        self.left_out = LeftOut()
        self._numbers = np.arange(getattr(spec, split), dtype=np.int64)
        self.labels = self._numbers % len(CLASS_NAMES)
        self._drawn: dict[int, bytes] = {}

    def read(self, index: int) -> bytes:
        """The JPEG of sample `index`."""
        number = int(self._numbers[index])
        encoded = self._drawn.get(number)
        if encoded is None:
            encoded = self._drawn[number] = draw(self.spec, self.split, number)
        return encoded

    def length(self, index: int) -> int:
        """Size of the JPEG in bytes; draws the image if necessary."""
        return len(self.read(index))

    def name(self, index: int) -> str:
        """For example `synthetic/train/disc/00012.jpg`."""
        return f"synthetic/{self.split}/{self.class_names[self.labels[index]]}/{self._numbers[index]:05d}.jpg"

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) in px, without drawing the image."""
        return _image_size(_generator(self.spec, self.split, int(self._numbers[index])), self.spec.size)

    def subset(self, indices: np.ndarray) -> SyntheticStore:
        """The samples at `indices`."""
        store = SyntheticStore(self.spec, self.split)
        store._numbers, store.labels = self._numbers[indices], self.labels[indices]
        return store

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_drawn": {}}


def draw(spec: SyntheticSpec, split: str, number: int) -> bytes:
    """Image `number` of a split as a JPEG; its class is `CLASS_NAMES[number % 10]`."""
    rng = _generator(spec, split, number)
    height, width = _image_size(rng, spec.size)
    y, x = _object_coordinates(rng, height, width, spec.size)
    kind = CLASS_NAMES[number % len(CLASS_NAMES)]
    opacity = _texture(kind, rng, x, y, spec.size) if kind in _TEXTURES else _shape(kind, rng, x, y, spec.size)

    foreground, background = _colours(rng)
    direction = rng.uniform(-1, 1, 2) * 40 / np.array([height, width])
    ramp = direction[0] * (np.arange(height) - height / 2)[:, None] + direction[1] * (np.arange(width) - width / 2)
    pixels = rng.standard_normal((height, width, 3), dtype=np.float32)
    pixels *= np.float32(rng.uniform(0, 14))
    pixels += ramp[..., None] + background
    pixels += opacity[..., None] * (foreground - background)
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _generator(spec: SyntheticSpec, split: str, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([spec.seed, _SPLIT_KEYS[split], number]))


def _image_size(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """(height, width): smallest side `size`, aspect ratio up to 4:3. Drawn first, so that `size` need not draw the image."""
    longer = round(size * rng.uniform(1, 4 / 3))
    return (size, longer) if rng.random() < 0.5 else (longer, size)


def _object_coordinates(rng: np.random.Generator, height: int, width: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (H, W) about the object's centre, slightly tilted, in px."""
    centre_y, centre_x = (np.array([height, width]) - 1) / 2 + rng.uniform(-0.07, 0.07, 2) * size
    tilt = rng.uniform(-0.2, 0.2)
    y, x = np.arange(height)[:, None] - centre_y, np.arange(width)[None, :] - centre_x
    return y * np.cos(tilt) - x * np.sin(tilt), x * np.cos(tilt) + y * np.sin(tilt)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two random colours that differ enough in luminance for the form to be visible; either may be the lighter."""
    while True:
        foreground, background = rng.uniform(15, 240, (2, 3))
        if abs((foreground - background) @ _LUMINANCE) >= _MIN_CONTRAST:
            return foreground, background


def _shape(kind: str, rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Opacity (H, W) of one filled form, anti-aliased by its signed distance in px."""
    radius = rng.uniform(0.3, 0.42) * size
    if kind == "disc":
        distance = np.hypot(x, y) - radius
    elif kind == "ring":
        band = rng.uniform(0.14, 0.22) * radius
        distance = np.abs(np.hypot(x, y) - radius + band) - band
    elif kind == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    elif kind == "triangle":
        distance = _polygon(x, y, _corners(3, radius * 1.1, radius * 1.1))
    elif kind == "star":
        distance = _polygon(x, y, _corners(5, radius * 1.1, radius * 0.45))
    else:  # cross
        arm = rng.uniform(0.24, 0.34) * radius
        bar = np.maximum(np.abs(x) - radius, np.abs(y) - arm)
        distance = np.minimum(bar, np.maximum(np.abs(y) - radius, np.abs(x) - arm))
    return np.clip(0.5 - distance, 0, 1)


def _texture(kind: str, rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Opacity (H, W) of a pattern over the whole image; its period is at least 5 px after rescaling to 32 px."""
    period = rng.uniform(0.17, 0.3) * size
    # Triangle waves in px with slope one, zero at the edges between dark and light.
    wave_x, wave_y = (_triangle_wave(c + rng.uniform(0, period), period) for c in (x, y))
    if kind == "horizontal_stripes":
        distance = wave_y
    elif kind == "vertical_stripes":
        distance = wave_x
    elif kind == "checkerboard":
        return 0.5 + 2 * (np.clip(0.5 - wave_x, 0, 1) - 0.5) * (np.clip(0.5 - wave_y, 0, 1) - 0.5)
    else:  # dots
        distance = np.hypot(wave_x + period / 4, wave_y + period / 4) - 0.27 * period
    return np.clip(0.5 - distance, 0, 1)


def _triangle_wave(coordinate: np.ndarray, period: float) -> np.ndarray:
    return np.abs(np.mod(coordinate, period) - period / 2) - period / 4


def _corners(points: int, outer: float, inner: float) -> np.ndarray:
    """Corners (n, 2) as (x, y) of a star, or of a regular polygon if both radii are equal, with one point upwards."""
    count = points if outer == inner else 2 * points
    angles = 2 * np.pi * np.arange(count) / count
    radii = np.where(np.arange(count) % 2 == 0, outer, inner)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance in px to a polygon, negative inside (even-odd rule)."""
    squared = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        inside ^= ((ay <= y) != (by <= y)) & ((px * ey - py * ex < 0) != (ey > 0))
    return np.where(inside, -1, 1) * np.sqrt(squared)
