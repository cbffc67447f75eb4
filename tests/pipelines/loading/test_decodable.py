"""How images are given to DALI (as they are, after a check, or as bitmaps), and how the loader recovers if DALI fails."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import pytest
import torch
from nvidia.dali import types
from PIL import Image
from support.loaders import CPU, MEAN, Images, by_torchvision, encode, load, photo

from pipelines.loading.dali_graph import Decoding
from pipelines.loading.dali_loader import DaliLoader
from pipelines.loading.decodable import Route, as_bitmap, route
from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.loading.preprocessing import Preprocessing
from pipelines.pixels import decode, refusal

JPEG, PNG = encode(photo(100, 120), quality=90), encode(photo(100, 120), "PNG")


CASES = {
    "baseline": (JPEG, Route.AS_IS, None),
    "progressive": (encode(photo(100, 120), progressive=True), Route.AS_IS, None),
    "zero bytes behind the end": (JPEG + bytes(300), Route.AS_IS, None),
    "a note behind the end": (JPEG + b"and a note", Route.AS_IS, None),
    "a preview behind the end": (JPEG + JPEG, Route.CHECKED, None),
    "no end marker": (JPEG[:-2], Route.CHECKED, "truncated"),
    "last rows cut off": (JPEG[:-200], Route.CHECKED, "truncated"),
    "half": (JPEG[: len(JPEG) // 2], Route.CHECKED, "truncated"),
    "half, then zeros": (JPEG[: len(JPEG) // 2] + bytes(500), Route.CHECKED, "truncated"),  # as after a crash
    "header": (JPEG[:200], Route.BITMAP, "runcated"),
    "PNG": (PNG, Route.AS_IS, None),
    "half a PNG": (PNG[: len(PNG) // 2], Route.BITMAP, "truncated"),
    "PNG signature": (PNG[:8], Route.BITMAP, "truncated"),
    "web page": (b"<html>404</html>", Route.BITMAP, "not an image"),
    "empty": (b"", Route.BITMAP, "zero bytes"),
}


@pytest.mark.parametrize("name", CASES)
def test_routes_and_refusals(name: str) -> None:
    encoded, way, words = CASES[name]
    assert route(encoded) == way
    error = refusal(encoded)
    assert error is None if words is None else words in str(error)


def test_no_cut_of_a_jpeg_goes_unchecked() -> None:
    """So no truncated JPEG reaches a decoder that does not report it."""
    assert all(route(JPEG[:end]) != Route.AS_IS for end in range(len(JPEG)))


def test_no_cut_of_a_png_reaches_dali() -> None:
    """DALI may crash the process if it cannot parse a header."""
    assert all(route(PNG[:end]) == Route.BITMAP for end in range(0, len(PNG), 7))


def test_a_bitmap_has_the_same_pixels() -> None:
    bitmap = as_bitmap(decode(JPEG))
    assert (decode(bitmap) == np.asarray(Image.open(io.BytesIO(JPEG)))).all()


@dataclass(frozen=True)
class WithoutPng(Decoding):
    """A stand-in for a GPU decoder without PNG support, which breaks the pipeline."""

    def decode(self, encoded: Any, start: Any = None, shape: Any = None) -> Any:
        is_png = fn.cast(fn.slice(encoded, [0], [1], axes=[0]) == PNG[0], dtype=types.INT32)
        known = fn.slice(encoded, [0], 1 + is_png * 10**8, axes=[0])  # out of bounds for a PNG
        zero = fn.cast(fn.reductions.sum(known) * 0, dtype=types.UINT8)
        return super().decode(fn.cast(encoded + zero, dtype=types.UINT8), start, shape)


def test_what_only_the_cpu_decodes_is_given_to_the_gpu_as_a_bitmap(caplog: pytest.LogCaptureFixture) -> None:
    encoded = [encode(photo(60, 70, seed), "PNG" if seed % 3 == 0 else "JPEG") for seed in range(10)]
    encoded[5] = encoded[5][:-100]
    store, preprocessing = Images(encoded), Preprocessing(32, MEAN, (1.0, 1.0, 1.0))
    loader = DaliLoader(store, preprocessing, 1, CPU, 4, WithoutPng("cpu"))
    samples = EpochPlan(10, 0, 0, Augmentation((40, 50))).samples
    for _ in range(2):
        batch = load(loader, samples, size=4)
        assert set(loader.bad_images) == {5}
        good = torch.from_numpy(samples.index != 5)
        assert ((batch.labels >= 0) == good).all()
        expected = by_torchvision(store, samples.at(np.flatnonzero(good)), preprocessing)
        assert (batch.images[good] - expected).abs().mean() < 0.5


def test_an_error_that_is_no_images_fault_is_told_in_the_operators_words() -> None:
    @dataclass(frozen=True)
    class Broken(Decoding):
        def decode(self, encoded: Any, start: Any = None, shape: Any = None) -> Any:
            return fn.slice(super().decode(encoded), [0, 0], [10**6, 1], axes=[0, 1])

    loader = DaliLoader(Images([JPEG] * 4), Preprocessing(32, MEAN, (1.0,) * 3), 1, CPU, 4, Broken("cpu"))
    with pytest.raises(RuntimeError, match=r"^DALI: .*slice") as raised:
        load(loader, EpochPlan(4, 0, 0, Augmentation((40, 50))).samples)
    assert "\n" not in str(raised.value)
