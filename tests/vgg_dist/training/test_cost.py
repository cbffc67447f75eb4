"""What a training would cost: counts against arithmetic, and that nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch
from conftest import Outcome
from torchvision.models import vgg11

from vgg_dist.config import TrainConfig
from vgg_dist.training.cost import describe_net, describe_training


def test_the_net_is_that_of_torchvision() -> None:
    parameters = sum(parameter.numel() for parameter in vgg11(num_classes=1000).parameters())
    words = describe_net(TrainConfig(arch="A").resolved(), 1000)
    assert words.startswith(f"A, {parameters:,} parameters, 7.609 GMACs ")
    assert describe_net(TrainConfig(arch="A", batch_norm=True, head="gap").resolved(), 10).startswith(
        "A with batch norm, head gap, "
    )


@pytest.mark.parametrize(("max_steps", "in_all"), [(None, "6 in at most 2 epochs"), (5, "5 in at most 2 epochs")])
def test_steps_are_images_by_batch_rounded_up(max_steps: int | None, in_all: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgg_dist.training.cost.measure_rate", lambda config, num_classes: 10.0)
    config = TrainConfig(arch="lenet5", global_batch=8, epochs=2, max_steps=max_steps, num_workers=2, micro_batch=4)
    text = describe_training(config.resolved(), (20, 5), 10)
    assert f"steps: 3 an epoch, of 8 images each; {in_all}" in text
    assert "images: 20 for training, 5 for validation, in 10 classes" in text
    assert "workers: 2, each with micro-batches of 4 images" in text
    assert "20 images/s, " in text  # 10 on each
    assert "times 2: 1 s an epoch, 2 s in all" in text


def test_a_dry_run_measures_and_leaves_nothing(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    flags = ["--arch", "lenet5", "--data", "synthetic:train=20,val=5,size=32", "--storage-path", tmp_path / "runs"]
    done = call("vgg_dist.train", *flags, "--name", "first", "--dry-run")
    assert (done.status, done.stderr) == (0, "")
    found = re.search(r"time: ([\d.e+]+) images/s, from training steps measured now", done.stdout)
    assert found
    assert float(found[1]) > 0
    assert not (tmp_path / "runs").exists()
    assert not ray.is_initialized()
    assert not torch.distributed.is_initialized()
