"""What only a GPU can show. More tests with the mark `gpu` lie with their subjects: `pytest -m gpu` runs all of them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import kill_once
from support.loaders import CPU, CUDA, DALI, MEAN, REFERENCE, Images, encode, make, photo
from support.paths import ROOT
from support.trainings import SMALL, Run, same

from pipelines.loading.dali_graph import Decoding
from pipelines.loading.dali_loader import DaliLoader
from pipelines.loading.epoch_plan import DUMMY_SAMPLE, Augmentation, EpochPlan, concatenate
from pipelines.loading.preprocessing import Preprocessing
from vgg_dist.training.parallelism import Worker

pytestmark = pytest.mark.gpu


def test_pixels_are_right_while_training_keeps_the_gpu_busy() -> None:
    """The decoder, the loader's stream and the training's: a batch that is used before it is complete has other pixels."""
    store = Images([encode(photo(300, 400, seed), quality=90) for seed in range(64)])
    preprocessing = Preprocessing(224, MEAN, (1.0, 1.0, 1.0))
    samples = concatenate([EpochPlan(64, 0, epoch, Augmentation((256, 320))).samples for epoch in range(6)])
    plan = [samples[first : first + 16] for first in range(0, len(samples), 16)]
    a = torch.randn(8192, 8192, device=CUDA)
    used = []
    for batch in make(DALI, store, preprocessing, CUDA).batches(plan):
        for _ in range(3):
            a @ a
        used.append((batch.images.float() * 1.0).cpu())
        del batch  # its memory may be the loader's again
    torch.cuda.synchronize()
    for ours, expected in zip(used, make(REFERENCE, store, preprocessing, CPU).batches(plan), strict=True):
        error = (ours - expected.images).abs().mean(dim=(1, 2, 3))
        assert error.max() < 2.0  # grey levels; a grey, shifted or foreign image is tens away


def test_memory_of_a_used_batch_is_not_overwritten_before_the_gpu_is_through_with_it() -> None:
    store = Images([encode(photo(64, 64, seed), "PNG") for seed in range(32)])  # decoded on the CPU: the same bits each time
    preprocessing = Preprocessing(64, MEAN, (1.0, 1.0, 1.0))
    samples = EpochPlan(32, 0, 0, Augmentation((64, 64))).samples
    plan = [samples[first : first + 8] for first in range(0, 32, 8)] * 8
    a = torch.randn(4096, 4096, device=CUDA)
    at_once = [batch.images.clone() for batch in make(DALI, store, preprocessing, CUDA).batches(plan)]
    late = []
    for batch in make(DALI, store, preprocessing, CUDA).batches(plan):
        for _ in range(10):
            a @ a  # so that the copy is queued, and runs when the loader is batches ahead
        late.append(batch.images.clone())
        del batch
    assert all(torch.equal(first, second) for first, second in zip(at_once, late, strict=True))


@pytest.mark.parametrize("device", [CUDA, torch.device("cuda")], ids=str)  # evaluation names no number
def test_a_batch_of_fillers_only(device: torch.device) -> None:
    loader = DaliLoader(Images([b""]), Preprocessing(64, MEAN, (1.0,) * 3), 1, device, 4, Decoding())
    (batch,) = loader.batches([DUMMY_SAMPLE])
    assert (batch.images == 0).all()
    assert batch.images.device.type == "cuda"


def test_deterministic_trainings_are_equal_bit_for_bit() -> None:
    config = dataclasses.replace(SMALL, head="fc", batch_norm=True, precision="bf16", deterministic=True)
    first, second = (Run(config, Worker(device=CUDA)).run() for _ in range(2))
    assert same(first.weights(), second.weights())


def test_bf16_from_the_loader_is_what_autocast_makes_of_fp32() -> None:
    store = Images([encode(photo(64, 64, seed), "PNG") for seed in range(8)])
    samples = EpochPlan(8, 0, 0, Augmentation((64, 64))).samples
    wide = make(DALI, store, Preprocessing(64, MEAN, (58.4, 57.1, 57.4)), CUDA)
    narrow = make(DALI, store, Preprocessing(64, MEAN, (58.4, 57.1, 57.4)), CUDA)
    narrow.outputs.dtype = torch.bfloat16  # type: ignore[attr-defined]
    (fp32,), (bf16,) = wide.batches([samples]), narrow.batches([samples])
    assert torch.equal(fp32.images.bfloat16(), bf16.images)


def train(folder: Path, name: str, *more: str) -> list[str]:
    flags = "--arch A --head gap --image-size 64 --data synthetic:train=640,val=64,size=80 --global-batch 32 --epochs 1"
    flags += " --lr 0.002 --checkpoint-every 5 --log-every 5 --deterministic"
    return [sys.executable, "-m", "vgg_dist.train", *flags.split(), "--storage-path", str(folder), "--name", name, *more]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_that_is_killed_and_resumed_ends_with_the_undisturbed_runs_weights(tmp_path: Path) -> None:
    env = os.environ | {"VGG_DIST_CACHE": str(tmp_path / "cache")}
    subprocess.run(train(tmp_path, "whole"), cwd=ROOT, env=env, check=True, capture_output=True)
    checkpoints = tmp_path / "killed"
    kill_once(train(tmp_path, "killed"), lambda: list(checkpoints.glob("checkpoint-*/config.json")), tmp_path / "log", env)
    subprocess.run(train(tmp_path, "killed"), cwd=ROOT, env=env, check=True, capture_output=True)
    results = [json.loads((tmp_path / name / "outcome.json").read_text()) for name in ("whole", "killed")]
    files = [(Path(result["checkpoint"]) / "model.safetensors").read_bytes() for result in results]
    assert files[0] == files[1]
    assert results[0]["metrics"]["val/loss"] == results[1]["metrics"]["val/loss"]


def test_threads_open_no_context_on_another_gpu() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    import pynvml

    device = torch.device("cuda", 1)
    code = "import test_gpu; test_gpu.load_on(1); import os; print(os.getpid())"
    done = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tests'); {code}; sys.stdin.read()"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pid = int(done.stdout.readline())  # type: ignore[union-attr]
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(torch.cuda.device_count())]
    pids = [{process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)} for handle in handles]
    done.communicate("")
    assert [number for number, of_gpu in enumerate(pids) if pid in of_gpu] == [device.index]


def load_on(number: int) -> None:
    """A walk through a loader on this GPU, as a worker makes it."""
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    store = Images([encode(photo(64, 64, seed)) for seed in range(8)])
    samples = EpochPlan(8, 0, 0, Augmentation((64, 64))).samples
    for _ in make(DALI, store, Preprocessing(64, MEAN, (1.0,) * 3), device).batches([samples]):
        pass
