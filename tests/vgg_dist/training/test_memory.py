"""What a step is computed to take, against what autograd really keeps; and what is made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from vgg_dist.config import TrainConfig
from vgg_dist.errors import TrainingError
from vgg_dist.training.memory import (
    Footprint,
    default_micro_batch,
    describe_shortage,
    explained_memory_errors,
    fitting_micro_batch,
    footprint,
    saved_bytes,
)
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import build_state

E = TrainConfig(arch="E").resolved()
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
@pytest.mark.parametrize(
    "fields",
    [
        {"arch": "A", "head": "linear"},
        {"arch": "A", "batch_norm": True, "head": "gap"},
        {"arch": "A-LRN", "head": "linear"},
        {"arch": "lenet5"},
        {"arch": "zfnet", "image_size": 47},
    ],
)
def test_an_image_takes_what_autograd_really_keeps(fields: dict[str, object], dtype: torch.dtype | None) -> None:
    config = replace(TrainConfig(), **{"image_size": 32, **fields}).resolved()  # type: ignore[arg-type]
    model = build_state(config, 7, CPU).model.train()
    channels = 1 if config.arch == "lenet5" else 3
    real = [saved_bytes(model, torch.randn(n, channels, config.image_size, config.image_size), dtype) for n in (2, 4)]
    assert footprint(config, 7, dtype).image == (real[1] - real[0]) / 2


def test_what_is_kept_is_what_the_backward_pass_is_given() -> None:
    """By hand: x @ w keeps x and w; relu its result, in place of its argument; the loss its logarithms and the labels."""
    model = torch.nn.Sequential(torch.nn.Linear(10, 20, bias=False), torch.nn.ReLU(), torch.nn.Linear(20, 5, bias=False))
    count = saved_bytes(model, torch.randn(4, 10), None)
    assert 4 * (4 * 10 + 4 * 20 + 4 * 5) <= count <= 4 * (4 * 10 + 4 * 20 + 4 * 5) + 100


def test_the_papers_deepest_net_takes_45_mb_an_image_and_75_with_batch_norm() -> None:
    plain = footprint(E, 1000, torch.bfloat16)
    assert plain.image == pytest.approx(45e6, rel=0.02)
    assert footprint(replace(E, batch_norm=True), 1000, torch.bfloat16).image == pytest.approx(75e6, rel=0.02)
    assert footprint(E, 1000, None).image > 1.6 * plain.image
    weights = sum(
        parameter.nbytes for parameter in build_state(replace(E, arch="A", head="gap"), 10, CPU).model.parameters()
    )
    small = footprint(replace(E, arch="A", head="gap"), 10, torch.bfloat16)
    assert 3 * weights < small.fixed < 7 * weights


def test_workers_that_share_the_fc_layers_need_less() -> None:
    """Of E, weights, gradients and momentum of the FC layers are 3 x 495 MB; those of four workers have a quarter each."""
    whole, shared = footprint(E, 1000, None), footprint(E, 1000, None, 4)
    fc = 4 * 123_642_856
    assert whole.fixed == 5 * 4 * 143_667_240
    assert whole.fixed - shared.fixed == 3 * (fc - fc // 4) - 2 * fc  # rank 0 puts weights and momentum together
    assert shared.image - whole.image == 3 * 512 * 7 * 7 * 4
    assert footprint(E, 1000, torch.bfloat16, 4).image - footprint(E, 1000, torch.bfloat16).image == 3 * 512 * 7 * 7 * 2


@pytest.mark.parametrize(
    ("gigabytes", "batch_norm", "fits"),
    [(79, False, 256), (79, True, 256), (15, False, 128), (7.6, False, 8), (4, False, 0)],
)
def test_what_fits_a_gpu(gigabytes: float, batch_norm: bool, fits: int) -> None:
    config = replace(E, batch_norm=batch_norm)
    total = int(gigabytes * 2**30)
    found = fitting_micro_batch(config, 1000, total, torch.bfloat16)
    assert found == fits
    foot = footprint(config, 1000, torch.bfloat16)
    assert foot.fixed + found * foot.image < 0.9 * total or not found


def test_fitting_sizes_are_round_and_grow_with_the_memory() -> None:
    sizes = [fitting_micro_batch(E, 1000, total << 28, torch.bfloat16) for total in range(4, 120)]
    assert sizes == sorted(sizes)
    assert set(sizes) <= {0, 1, 2, 4, 8, 16, 24, *range(32, 257, 32)}
    assert max(sizes) == 256


def test_the_default_is_no_more_than_a_workers_share_of_a_step() -> None:
    assert default_micro_batch(replace(E, global_batch=512), 1000, Worker()) == 64
    assert default_micro_batch(replace(E, global_batch=256), 1000, Worker(world_size=5)) == 52


def test_running_out_says_what_would_fit() -> None:
    gpu = "GPU memory", 15 << 30, 1 << 30
    assert describe_shortage(E, 1000, torch.bfloat16, 256, *gpu) == (
        "--micro-batch 256: out of GPU memory (15 GB) with E at 224 pixels in bf16, about 45 MB an image;"
        " about 128 should fit"
    )
    # Where it should have fitted.
    assert describe_shortage(E, 1000, torch.bfloat16, 96, *gpu).endswith("about 32 should fit")
    line = describe_shortage(replace(E, batch_norm=True), 1000, torch.bfloat16, 96, "GPU memory", 79 << 30, 70 << 30)
    assert "(79 GB; other processes or the decoder use 70 GB) with E with batch norm" in line
    assert line.endswith("about 24 should fit")
    assert "not even one image fits" in describe_shortage(E, 1000, None, 1, "GPU memory", 4 << 30, 0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1099511627776 bytes."),
    ],
)
def test_errors_of_too_little_memory_are_explained(error: Exception) -> None:
    config = replace(E, micro_batch=16)
    with (
        pytest.raises(TrainingError, match=r"^--micro-batch 16: out of memory .* E at 224 pixels"),
        explained_memory_errors(config, 1000, Worker()),
    ):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="assert triggered"), explained_memory_errors(E, 1000, Worker()):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_room_is_left_for_what_is_not_computed() -> None:
    assert Footprint(image=10**6, input=0, fixed=0).images(10 * 2**30) == (9 - 3) * 2**30 // 10**6


@pytest.mark.gpu
def test_on_a_gpu_images_take_about_what_is_computed() -> None:
    device = torch.device("cuda", 0)
    model = build_state(E, 1000, device).model.train()
    peaks = []
    for count in (16, 48):
        images = torch.randn(count, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats(device)
            with torch.autocast("cuda", torch.bfloat16):
                logits = model(images)
            cross_entropy(logits.float(), torch.zeros(count, dtype=torch.long, device=device)).backward()
        peaks.append(torch.cuda.max_memory_allocated(device))
    image = (peaks[1] - peaks[0]) / 32
    foot = footprint(E, 1000, torch.bfloat16)
    assert 0.9 * foot.image < image < 1.3 * foot.image + foot.input, f"{image / 1e6:.1f} MB an image"


@pytest.mark.gpu
def test_on_a_gpu_running_out_names_its_memory() -> None:
    device = torch.device("cuda", 0)
    with (
        pytest.raises(TrainingError, match=r"--micro-batch 128: out of GPU memory \(\d+ GB"),
        explained_memory_errors(replace(E, micro_batch=128), 1000, Worker(device=device)),
    ):
        torch.empty(1 << 44, device=device)
    assert 0 < default_micro_batch(E, 1000, Worker(device=device)) <= 256
