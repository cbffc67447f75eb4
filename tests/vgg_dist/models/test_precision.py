"""fp32, tf32 and bf16 are what they say, and so is the peak that utilisation is measured against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import conv2d

from vgg_dist.models.precision import apply_precision, autocast, autocast_dtype, matmul_peak, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


def test_on_a_cpu() -> None:
    assert resolve_precision("tf32", CPU) == resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    assert autocast_dtype("fp32", CPU) is None
    weights = torch.randn(8, 8)
    with autocast(CPU, torch.bfloat16):
        assert (weights @ weights).dtype == torch.bfloat16
    with autocast(CPU, None):
        assert (weights @ weights).dtype == torch.float32


def test_fp32_is_not_left_to_torchs_default_which_is_tf32_for_convolutions() -> None:
    for precision, tf32 in (("tf32", True), ("fp32", False), ("bf16", False)):
        apply_precision(precision)
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (tf32, tf32)


@pytest.mark.gpu
def test_on_a_gpu_convolutions_are_as_exact_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    images, weights = (torch.randn(*shape, generator=generator) for shape in ((8, 256, 28, 28), (256, 256, 3, 3)))
    exact = conv2d(images.double().to(CUDA), weights.double().to(CUDA), padding=1)
    errors = {}
    for precision in ("fp32", "tf32", "bf16"):
        apply_precision(precision)
        with autocast(CUDA, autocast_dtype(precision, CUDA)):
            ours = conv2d(images.to(CUDA), weights.to(CUDA), padding=1)
        errors[precision] = ((ours.double() - exact).norm() / exact.norm()).item()
    assert errors["fp32"] < 1e-5 < errors["tf32"] < 2e-3 < errors["bf16"] < 2e-2


@pytest.mark.gpu
def test_the_peak_is_that_of_the_precision() -> None:
    peaks = [matmul_peak(CUDA, precision) for precision in ("fp32", "tf32", "bf16")]
    assert peaks == sorted(peaks)
    assert peaks[2] > 4 * peaks[0]
