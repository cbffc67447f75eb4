"""What a net sees at test time, against constructions of the test's own from PIL crops and the FC form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.networks import build_drawn, images_of
from torch import Tensor

from pipelines.loading.crop_geometry import grid_corners
from vgg_dist.evaluation.views import Viewer
from vgg_dist.models.specs import MODELS
from vgg_dist.models.vgg import ConvNet

SIZE = 32
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net() -> ConvNet:
    return build_drawn("A", image_size=SIZE, head="linear", num_classes=7)


def viewer(net: ConvNet, size: int = SIZE, micro_batch: int = 16) -> Viewer:
    return Viewer(net, size, micro_batch, CPU, None)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def as_input(image: Image.Image) -> Tensor:
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - 128) / 64


@pytest.mark.parametrize(("width", "height"), [(32, 32), (33, 50), (61, 40), (128, 32)])
@pytest.mark.slow
def test_the_50_crops_are_the_grid_pixel_for_pixel(net: ConvNet, width: int, height: int) -> None:
    image, crops = picture(width, height), []
    for row in range(5):
        for column in range(5):
            # Python's round, like the docstring's grid, takes halves to the even neighbour.
            top, left = round(row * (height - SIZE) / 4), round(column * (width - SIZE) / 4)
            crop = image.crop((left, top, left + SIZE, top + SIZE))
            crops += [as_input(crop), as_input(ImageOps.mirror(crop))]
    assert len(crops) == 50
    seen = []
    hook = net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    posteriors = viewer(net).posteriors("crops", as_input(image)[None])
    hook.remove()
    key = [tensor.numpy().tobytes() for tensor in torch.cat(seen).contiguous()]
    assert sorted(key) == sorted(crop.contiguous().numpy().tobytes() for crop in crops)
    with torch.inference_mode():
        expected = torch.stack([net(crop[None]).softmax(1)[0] for crop in crops]).mean(0)
    torch.testing.assert_close(posteriors[0], expected, rtol=1e-4, atol=1e-6)


def test_grid_touches_all_edges_and_is_even() -> None:
    corners = grid_corners(np.array([[256, 341]]), 224).reshape(5, 5, 2)
    assert corners[:, 0, 0].tolist() == [0, 8, 16, 24, 32]
    assert corners[0, :, 1].tolist() == [0, 29, 58, 88, 117]  # 117 / 4 = 29.25
    assert (corners[:, 0, 0][:, None] == corners[:, :, 0]).all()


@pytest.mark.parametrize("view", ["dense", "crops", "center"])
@pytest.mark.slow
def test_images_of_a_batch_do_not_touch_each_other(net: ConvNet, view: str) -> None:
    images = torch.stack([as_input(picture(45, 38, seed)) for seed in range(3)])
    together = viewer(net).posteriors(view, images)
    alone = torch.cat([viewer(net, micro_batch=7).posteriors(view, image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together.sum(1), torch.ones(3))


def test_dense_averages_scores_over_space_then_posteriors_over_the_mirror_image(net: ConvNet) -> None:
    image = as_input(picture(97, 70))
    expected = []
    with torch.inference_mode():
        for side in (image, image.flip(2)):
            maps = net.features(side[None])  # 2 x 3 windows of 1 x 1
            scores = [net.classifier(maps[:, :, y, x]) for y in range(2) for x in range(3)]
            expected.append(torch.stack(scores).mean(0).softmax(1))
    torch.testing.assert_close(viewer(net).posteriors("dense", image[None]), (expected[0] + expected[1]) / 2)


def test_center_is_torchvisions_center_crop(net: ConvNet) -> None:
    from torchvision.transforms.functional import center_crop

    image = picture(47, 36)
    with torch.inference_mode():
        expected = net(as_input(center_crop(image, [SIZE, SIZE]))[None]).softmax(1)
    torch.testing.assert_close(viewer(net).posteriors("center", as_input(image)[None]), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "head"), [(arch, head) for arch, spec in MODELS.items() for head in spec.heads if arch not in ("B", "C")]
)
def test_dense_equals_the_fc_form_on_an_image_of_the_nets_own_size(arch: str, head: str) -> None:
    model, size = build_drawn(arch, head=head, num_classes=10), MODELS[arch].image_size
    images = images_of(size, channels=MODELS[arch].in_channels)
    with torch.inference_mode():
        expected = (model(images).softmax(1) + model(images.flip(3)).softmax(1)) / 2
    dense = Viewer(model, size, 1, CPU, None).posteriors("dense", images)
    torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-5)
