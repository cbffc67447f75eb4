"""Large photographs and long strips: all readers give the defined pixels, in memory that does not grow with the rescale."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.large_images import PHONE, large_images, noise
from support.loaders import CPU, DALI, LOADERS, Images, load, make
from support.networks import build_drawn
from support.paths import SUPPORT

from pipelines.loading.crop_geometry import resized_shape
from pipelines.loading.epoch_plan import Augmentation, EpochPlan, evaluation_samples
from pipelines.loading.loader import IGNORED_LABEL
from pipelines.loading.preprocessing import Preprocessing
from pipelines.loading.rescale import clipped, crop_of_rescaled
from pipelines.loading.whole_images import LargeImage, SizedBatch, WholeImages
from pipelines.pixels import MAX_PIXELS, decode, open_image, refusal
from pipelines.preparation.inspection import inspect
from vgg_dist.evaluation.views import Viewer, tiles
from vgg_dist.models.dense import fully_convolutional
from vgg_dist.models.feature_maps import output_size
from vgg_dist.models.specs import MODELS


def by_definition(pixels: NDArray[np.uint8], resized: list[int], corner: list[int], size: int) -> NDArray[np.float64]:
    """The crop by a triangular filter as wide as the rescale requires; black outside the image."""
    crop = pixels.astype(np.float64)
    for axis in np.argsort(pixels.shape[:2])[::-1].tolist():
        ratio = pixels.shape[axis] / resized[axis]
        reach = max(ratio, 1.0)
        places = np.arange(size) + corner[axis]
        centres = (places + 0.5) * ratio
        near = np.floor(centres)[:, None].astype(int) + np.arange(-int(reach) - 2, int(reach) + 3)
        weights = np.clip(1 - abs(near + 0.5 - centres[:, None]) / reach, 0, None)
        weights *= (near >= 0) & (near < pixels.shape[axis])
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        weights *= ((places >= 0) & (places < resized[axis]))[:, None]
        taken = crop.take(near.clip(0, pixels.shape[axis] - 1), axis=axis)
        crop = np.einsum("nkwc,nk->nwc" if axis == 0 else "hnkc,nk->hnc", taken, weights)
    return crop


@pytest.mark.parametrize("pad", [0, 12])
@pytest.mark.parametrize("kind", LOADERS)
def test_crops_of_large_images_are_those_of_the_whole_rescaled_image(
    kind: str, pad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.loading.decodable.MAX_WINDOW_PIXELS", 2**18)
    monkeypatch.setattr("pipelines.loading.decodable.MAX_WHOLE_PIXELS", 2**18)
    store, size = Images(list(large_images().values())), 48
    preprocessing = Preprocessing(size, (0.0,) * 3, (1.0,) * 3, pad=pad)
    samples = EpochPlan(len(store), 3, 0, Augmentation((64, 72), color_shift=0.0)).samples
    batch = load(make(kind, store, preprocessing), samples)
    assert batch.labels.tolist() == samples.index.tolist()
    for row, crop in enumerate(batch.images.permute(0, 2, 3, 1).numpy()):
        pixels = decode(store.read(int(samples.index[row])))
        resized, corner = preprocessing.geometry(np.array([pixels.shape[:2]]), samples[row : row + 1])
        expected = by_definition(pixels, resized[0].tolist(), corner[0].tolist(), size)
        expected = expected[:, ::-1] if samples.flip[row] else expected
        difference = abs(crop - expected)
        # DALI's windows may be off by TOLERANCE source pixels; this matters most for images of noise.
        most = (5.0, 1.5) if kind == DALI else (4.0, 0.75)
        assert difference.max() <= most[0], list(large_images())[samples.index[row]]
        assert difference.mean() <= most[1], list(large_images())[samples.index[row]]


@pytest.mark.parametrize("corner", [(0, 0), (-20, 30), (90, -5), (250, 400), (-48, -48), (300, 10)])
def test_a_crop_of_what_is_not_rescaled_as_a_whole_is_the_same(
    corner: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.open(io.BytesIO(noise(97, 143, "PNG")))
    resized = resized_shape(np.array([[97, 143]]), np.array([288]))[0].tolist()
    whole = crop_of_rescaled(image, resized, corner, (48, 40))
    monkeypatch.setattr("pipelines.loading.rescale.MAX_WHOLE_PIXELS", 0)
    assert abs(crop_of_rescaled(image, resized, corner, (48, 40)).astype(int) - whole).max() <= 1
    first, last = clipped(np.array(resized), np.array(corner), np.array([48, 40]))
    outside = np.ones((48, 40), np.bool_)
    rows, columns = (slice(max(0, a), max(0, b)) for a, b in zip(first - corner, last - corner, strict=True))
    outside[rows, columns] = False
    assert (whole[outside] == 0).all()


@pytest.mark.parametrize("kind", LOADERS)
def test_images_above_the_limit_are_refused_by_all_for_the_same_reason(kind: str, tmp_path: Path) -> None:
    images = [noise(40, 50, kind) for kind in ("JPEG", "PNG", "BMP", "WEBP")]
    store = Images([*images, noise(40, 49, "JPEG")])
    preprocessing = Preprocessing(32, (0.0,) * 3, (1.0,) * 3, center=True, max_pixels=1999)
    loader = make(kind, store, preprocessing)
    labels = load(loader, evaluation_samples(np.arange(5), 40)).labels.tolist()
    assert labels == [IGNORED_LABEL] * 4 + [4]
    reason = "50 x 40 pixels, more than --max-pixels 1999"
    assert loader.bad_images == {k: f"image-{k}: {reason}" for k in range(4)}
    whole = WholeImages(store, preprocessing, 1, CPU, 1)
    for k in range(4):
        assert [finding.detail for finding in inspect(images[k], "a.jpg", 1999)] == [reason]
        with pytest.raises(OSError, match=f"^image-{k}: cannot be decoded: {reason}$"):
            list(whole.batches(np.array([k]), 40))


def test_pillows_own_limit_and_warnings_do_not_matter_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("JPEG", "PNG", "BMP", "WEBP", "MPO"):
            assert decode(noise(40, 50, kind)).shape == (40, 50, 3), kind
            assert inspect(noise(40, 50, kind), f"a.{kind.lower()}") == [] or kind in ("JPEG", "MPO"), kind
        assert open_image(PHONE).size == (16320, 12240)
        assert refusal(PHONE, MAX_PIXELS // 2) == f"16320 x 12240 pixels, more than --max-pixels {MAX_PIXELS // 2}"
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("arch", ["A", "lenet5", "alexnet", "zfnet"])
def test_tiles_hold_every_position_of_the_score_map_once(arch: str) -> None:
    """Compared with the score map of the whole image, computed by the net itself."""
    size = {"A": 32, "lenet5": 32}.get(arch, MODELS[arch].min_image_size)
    net = build_drawn(arch, image_size=size, num_classes=7).eval()
    dense, channels = fully_convolutional(net), MODELS[arch].in_channels
    images = torch.randn(1, channels, size + 7, 3 * size + 13, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = dense(images)
        for pixels in (1, size + 40):
            rows, columns = (list(tiles(dense, length, pixels)) for length in images.shape[2:])
            assert pixels > 1 or len(columns) == expected.shape[3]
            maps = [
                [
                    dense(images[:, :, r.start : r.start + r.length, c.start : c.start + c.length])[
                        :, :, r.positions, c.positions
                    ]
                    for c in columns
                ]
                for r in rows
            ]
            found = torch.cat([torch.cat(row, dim=3) for row in maps], dim=2)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    length = images.shape[3]
    for layer in dense.modules():
        length = output_size(layer, length)
    assert length == expected.shape[3]


def test_views_of_an_image_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build_drawn("A", image_size=32, head="linear", num_classes=7)
    viewer = Viewer(net, 32, 16, CPU, None)
    store = Images([noise(20, 170, "PNG"), noise(300, 31, "JPEG")])
    whole = WholeImages(store, Preprocessing(32, (120.0,) * 3, (60.0,) * 3), 1, CPU, 1)
    batches = list(whole.batches(np.arange(2), 40))
    monkeypatch.setattr("pipelines.loading.whole_images.MAX_BATCHED_PIXELS", 1)
    large = list(whole.batches(np.arange(2), 40))
    for batch, parts in zip(batches, large, strict=True):
        assert isinstance(batch, SizedBatch)
        assert isinstance(parts, LargeImage)
        assert batch.rows.tolist() == parts.rows.tolist()
        for view in ("dense", "crops", "center"):
            with parts.open() as image:
                found = viewer.posteriors_of_large(view, image, tile_pixels=90**2)
            torch.testing.assert_close(found, viewer.posteriors(view, batch.images), rtol=1e-3, atol=1e-6)


CHILD = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from support.large_images import PHONE, large_images, noise
from support.loaders import CPU, DALI, LOADERS, WHOLE, Images, load, make
from pipelines.loading.preprocessing import Preprocessing
from pipelines.preparation.inspection import inspect
from pipelines.loading.epoch_plan import Augmentation, EpochPlan
from pipelines.loading.whole_images import WholeImages

def walk(images, kinds=LOADERS, pad=0):
    store, preprocessing = Images(images), Preprocessing(224, (0.0,) * 3, (1.0,) * 3, pad=pad)
    for kind in kinds:
        samples = EpochPlan(len(store), 0, 0, Augmentation((256, 300))).samples
        assert (load(make(kind, store, preprocessing), samples).labels >= 0).all()
    for batch in WholeImages(store, preprocessing, 2, CPU, 1).batches(np.arange(len(store)), 256):
        if hasattr(batch, "open"):
            with batch.open() as image:
                image.part(0, 0, 256, 256)
    for encoded in images:
        inspect(encoded, "a.jpg")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

strips = [encoded for name, encoded in large_images().items() if "strip" in name] * 2
ordinary = walk([noise(300, 400, "PNG")] * 8)
print(json.dumps([ordinary, walk(strips), walk(strips, [DALI, WHOLE], 8), walk([PHONE] * 2, [DALI])]))
"""


@pytest.mark.slow
def test_memory_is_bounded() -> None:
    """For loaders, whole images and `check`. One rescaled strip of 3000 x 1 pixels takes 590 MB, the photograph 800 MB."""
    done = subprocess.run([sys.executable, "-c", CHILD, SUPPORT.parent], capture_output=True, text=True, check=True)
    ordinary, strips, padded, phone = json.loads(done.stdout.splitlines()[-1])
    assert max(strips, padded) - ordinary < 300e6
    assert phone - ordinary < 1.4e9
