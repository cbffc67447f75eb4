"""The notes that training, search and evaluation print at their start about files that are left out: a line per split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from support.trees import make_tree, picture

from vgg_dist.config import EvalConfig, ScaleRange, TrainConfig
from vgg_dist.evaluation.open import open_images
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import build_state
from vgg_dist.weights.load import load_net
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.setup import Node, prepare

CLASSES = ["cat", "dog", "owl"]
TRAIN = (
    "train: left out: 2 .tiff files, a format that is not read (train/cat/x.tiff); 1 system file or folder (train/__MACOSX)"
)
VAL = "val: 1 of 3 classes have no image: owl"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    files = {f"train/{c}/{i}.jpg": picture(i) for c in CLASSES for i in range(2)}
    files |= {f"val/{c}/0.jpg": picture(3) for c in ("cat", "dog")}
    beside = {"train/cat/x.tiff": b"", "train/dog/y.tiff": b"", "train/__MACOSX/cat/._0.jpg": b""}
    (tmp_path / "file").write_text("no folder")
    return make_tree(tmp_path / "data", files | beside)


@pytest.mark.parametrize(("command", "flags"), [("vgg_dist.train", []), ("vgg_dist.tune", ["--metric", "top1_error"])])
@pytest.mark.slow
def test_commands_that_open_the_data_say_it_on_stderr(
    data: Path, command: str, flags: list[str], call: Callable[..., Outcome]
) -> None:
    # The storage is refused after the data were opened, but before anything starts.
    done = call(command, "--data", data, "--storage-path", data.parent / "file/runs", "--arch", "A", *flags)
    assert done.status == 2
    first, second, refusal = done.stderr.splitlines()
    assert [first, second] == [f"--data {data}: {line}" for line in (TRAIN, VAL)]
    assert "--storage-path" in refusal


def small(data: Path) -> TrainConfig:
    batches = {"global_batch": 2, "micro_batch": 2, "loader_threads": 1}
    config = TrainConfig(
        arch="A", head="linear", image_size=32, train_scale=ScaleRange(36, 36), max_steps=1, precision="fp32", **batches
    )
    return replace(config, data=str(data)).resolved()


@pytest.mark.slow
def test_evaluation_says_it_of_val(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, folder = small(data), tmp_path / "checkpoint"
    folder.mkdir()
    build_state(config, 3, torch.device("cpu")).save(folder, config, CLASSES)
    store, names = open_images(EvalConfig(nets=(str(folder),)), [load_net(str(folder), None)])
    assert (len(store), names) == (2, CLASSES)
    assert capsys.readouterr().err == f"--data {data}: {VAL}\n"

    kaggle = make_tree(tmp_path / "kaggle", {"LOC_val_solution.csv": b"-", "train/cat/0.jpg": b"", "val/0.jpg": b""})
    with pytest.raises(
        ValueError, match=f"its images are in {kaggle}/LOC_val_solution.csv; give --data {kaggle}, which reads both"
    ):
        open_images(EvalConfig(nets=(str(folder),), data=str(kaggle / "val")), [load_net(str(folder), None)])


@pytest.mark.slow
def test_a_worker_has_it_among_what_it_says_at_its_start(data: Path) -> None:
    assert prepare(small(data), Worker(), Node(), Exchange(), None).remarks == [TRAIN, VAL]
