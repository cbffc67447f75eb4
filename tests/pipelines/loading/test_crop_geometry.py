"""The crop geometry against torchvision's own transforms and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Resize
from torchvision.transforms.functional import InterpolationMode

from pipelines.loading.crop_geometry import MAX_SKIP, TOLERANCE, center_corner, crop_corner, decode_window, resized_shape

rng = np.random.default_rng(0)
SHAPES = rng.integers(40, 3000, (2000, 2))
SCALES = rng.integers(256, 513, 2000)


def test_resized_shape_is_torchvisions() -> None:
    for shape, scale in zip(SHAPES[:40].tolist(), SCALES[:40].tolist(), strict=True):
        resized = Resize(scale, InterpolationMode.NEAREST)(Image.new("L", shape[::-1]))
        assert resized_shape(np.array([shape]), np.array([scale]))[0].tolist() == list(resized.size[::-1])


def test_center_corner_is_torchvisions() -> None:
    ramp = np.arange(300, dtype=np.int32)
    for height in range(224, 240):
        for width in range(224, 240):
            image = Image.fromarray(ramp[:height, None] * 1000 + ramp[None, :width])
            corner = np.asarray(CenterCrop(224)(image))[0, 0]
            assert center_corner(np.array([[height, width]]), 224)[0].tolist() == [corner // 1000, corner % 1000]


@pytest.mark.parametrize("pad", [0, 4])
def test_every_corner_is_reached_and_none_beyond(pad: int) -> None:
    resized = np.repeat([[40, 32]], 20_000, axis=0)
    corners = crop_corner(resized, rng.random((20_000, 2)), 32, pad)
    assert (corners.min(axis=0) == -pad).all()
    assert corners.max(axis=0).tolist() == [40 + pad - 32, pad]
    counts = np.unique(corners[:, 0], return_counts=True)[1]
    assert counts.max() / counts.min() < 1.25


def windows(size: int = 224):
    resized = resized_shape(SHAPES, SCALES)
    corner = crop_corner(resized, rng.random((len(SHAPES), 2)), size)
    return resized, corner, decode_window(SHAPES, resized, corner, size)


@pytest.mark.slow
def test_windows_lie_in_the_image_and_hold_all_that_the_filter_reads() -> None:
    resized, corner, window = windows()
    ratio = SHAPES / resized
    assert (window.start >= 0).all()
    assert (window.start + window.shape <= SHAPES).all()
    # A triangular filter of half-width max(ratio, 1) around each output pixel's centre (as PIL and torch define it).
    support = np.maximum(ratio, 1)
    first = np.maximum(np.floor((corner + 0.5) * ratio - support + 0.5), 0)
    last = np.minimum(np.floor((corner + 223.5) * ratio + support + 0.5), SHAPES)
    assert (window.start <= first).all()
    assert (window.start + window.shape >= last).all()


@pytest.mark.slow
def test_windows_are_tight() -> None:
    resized, _, window = windows()
    ratio = SHAPES / resized
    reach = np.maximum(1, 1 / ratio) + 1
    assert (window.shape <= np.ceil((224 + 2 * reach) * ratio) + 2).all()


@pytest.mark.slow
def test_the_resize_that_begins_at_a_whole_pixel_hits_the_crop() -> None:
    resized, corner, window = windows()
    ratio = SHAPES / resized
    begin, aligned = window.start - window.padding_before, window.is_aligned
    assert (begin >= 0).all()
    assert (window.padding_before[aligned] >= 0).all()
    assert (window.skip[aligned] >= 0).all()
    assert abs(begin + window.skip * ratio - corner * ratio)[aligned].max() <= TOLERANCE + 1e-9
    middle = begin + (window.skip + 112) * window.ratio
    np.testing.assert_allclose(middle[aligned], ((corner + 112) * ratio)[aligned], rtol=1e-12)
    assert aligned[corner.max(axis=1) < MAX_SKIP].all()
    assert aligned.mean() > 0.95
    np.testing.assert_allclose(window.start + window.roi_start, corner * ratio, atol=1e-3)
    np.testing.assert_allclose(window.roi_end - window.roi_start, 224 * ratio, rtol=1e-4)
