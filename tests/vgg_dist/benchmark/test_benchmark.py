"""The benchmarks: all compared loops do the same work, results are complete, and mistakes are one line. No timed asserts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.benchmarks import fails, small, write_tree

from pipelines.loading.reference_loader import ReferenceLoader
from vgg_dist.benchmark import loaders
from vgg_dist.benchmark.__main__ import run
from vgg_dist.benchmark.cores import limited_to_cores
from vgg_dist.benchmark.loader import measure, plan_work
from vgg_dist.benchmark.options import (
    CheckpointBenchmark,
    EvaluationBenchmark,
    StepBenchmark,
)
from vgg_dist.benchmark.pixels import compare_pixels
from vgg_dist.benchmark.plain_loop import PlainLoop, accuracy, has_torchvision_net
from vgg_dist.benchmark.report import paired_ratio, table
from vgg_dist.config import ScaleRange

IN_PROCESS = {
    "ours": loaders.ours,
    "stock DALI": loaders.stock_dali,
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes = [(60, 80), (80, 60), (64, 64), (50, 75), (90, 61), (48, 48), (70, 99)]
    return write_tree(tmp_path_factory.mktemp("photographs"), shapes)


# The loader benchmark


@pytest.mark.parametrize("name", IN_PROCESS)
def test_loaders_get_the_same_crops_flips_and_shifts(name: str, tmp_path: Path) -> None:
    # S is every image's smallest side: nothing is resized, so any difference would come from another crop, flip or shift.
    work = plan_work(
        small(write_tree(tmp_path, [(48, 64), (64, 48), (48, 48), (48, 70), (66, 48)]), train_scale=ScaleRange(48, 48))
    )
    assert work.samples.flip.any()
    assert not work.samples.flip.all()
    assert np.abs(work.samples.shift).max() > 1
    differences = compare_pixels(work, {name: IN_PROCESS[name](work)})
    assert differences[name]["difference_worst"] < 1e-3


def test_a_contestant_gives_the_same_epoch_each_time(photographs: Path) -> None:
    work = plan_work(small(photographs))
    for set_up in IN_PROCESS.values():
        epoch = set_up(work)
        first, second = ([images.clone() for images in epoch()] for _ in range(2))
        assert [len(images) for images in first] == [3, 3, 1]
        torch.testing.assert_close(torch.cat(first), torch.cat(second), rtol=0, atol=0)
    floor = loaders.decoding_alone(work)
    assert [*floor(), *floor()] == []


def test_pixels_are_measured_in_grey_levels(photographs: Path) -> None:
    work = plan_work(small(photographs))

    def one_image_off_by_four() -> Iterator[torch.Tensor]:
        for number, batch in enumerate(ReferenceLoader(*reference).batches(work.micro_batches())):
            yield batch.images + (4.0 if number == 2 else 0.0)  # the last batch has one image of seven

    reference = (work.store, work.preprocessing, 1, work.device)
    difference = compare_pixels(work, {"off": one_image_off_by_four})["off"]
    assert difference["difference_mean"] == pytest.approx(4 / 7, abs=1e-4)
    assert difference["difference_worst"] == pytest.approx(4, abs=1e-4)


@pytest.mark.slow
def test_loader_measures_all_and_writes_what_it_belongs_to(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "loader.json"
    run(small(photographs, json=file))
    record = json.loads(file.read_text())
    loaders = record["loaders"]
    assert list(loaders) == [
        "this loader",
        "stock DALI chain",
        "torchvision DataLoader",
        "torchvision v2",
        "floor: decoding alone",
    ]
    assert all(len(each["images_per_second"]) == 2 and min(each["images_per_second"]) > 0 for each in loaders.values())
    assert loaders["torchvision DataLoader"]["difference_worst"] < 1e-3
    assert loaders["torchvision v2"]["difference_worst"] < 0.5  # its resize rounds differently
    assert loaders["this loader"]["difference_mean"] < 1
    assert "difference_mean" not in loaders["floor: decoding alone"]
    assert record["settings"]["batch"] == 3
    assert record["machine"]["cpu"]
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert socket.gethostname() not in file.read_text()
    printed = capsys.readouterr().out
    assert all(name in printed for name in loaders)


@pytest.mark.slow
def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    data = write_tree(tmp_path, [(60, 80)] * 5)
    victim = data / "train" / "class0" / "2.jpg"
    victim.write_bytes(victim.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"train/class0/2\.jpg.*pipelines\.prepare check"):
        measure(small(data))


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    data = write_tree(tmp_path, [(60, 80)] * 5)
    (data / "train" / "class1" / "1.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"train/class1/1\.jpg.*pipelines\.prepare check"):
        plan_work(small(data))


@pytest.mark.skipif(sys.platform != "linux", reason="no CPU affinity on this system")
def test_children_are_held_to_the_same_cores() -> None:
    before = os.sched_getaffinity(0)
    count = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
    with limited_to_cores(1):
        assert subprocess.run(count, capture_output=True, text=True, check=True).stdout.strip() == "1"
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ValueError, match="--threads 100000: this process may use"), limited_to_cores(100_000):
        pass


# The step benchmark


def test_step_counts_flops_and_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "step.json"
    run(
        StepBenchmark(
            archs=("lenet5",), precisions=("fp32",), batch=3, image_size=32, steps=2, rounds=4, device="cpu", json=file
        )
    )
    (figure,) = json.loads(file.read_text())["steps"]
    convolutions = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25
    fully_connected = 400 * 120 + 120 * 84 + 84 * 1000
    assert figure["flops_per_image"] == 6 * (convolutions + fully_connected)
    assert len(figure["images_per_second"]) == 4
    rate = sorted(figure["images_per_second"])
    share = (rate[1] + rate[2]) / 2 * figure["flops_per_image"] / figure["matmul_peak_flops"]
    assert figure["share_of_peak"] == pytest.approx(share)
    assert figure["plain_loop"]["images_per_second"] == []  # torchvision has no LeNet-5
    assert "lenet5" in capsys.readouterr().out


@pytest.mark.skipif(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(), reason="bf16 hardware")
def test_step_leaves_out_bf16_that_would_be_emulated(capsys: pytest.CaptureFixture[str]) -> None:
    run(StepBenchmark(archs=("lenet5",), batch=1, image_size=32, steps=1, rounds=1, device="cpu"))
    printed = capsys.readouterr().out
    assert "bf16 left out" in printed
    assert "lenet5, bf16" not in printed


@pytest.mark.slow
def test_step_has_torchvisions_twin_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    run(StepBenchmark(archs=("A",), precisions=("fp32",), batch=1, steps=1, rounds=1, device="cpu", json=file))
    (figure,) = json.loads(file.read_text())["steps"]
    ours, plain = figure["images_per_second"], figure["plain_loop"]["images_per_second"]
    assert figure["times_plain_loop"] == pytest.approx(paired_ratio(ours, plain))


def test_twins_are_the_same_net() -> None:
    from vgg_dist.models.build import build_model

    assert has_torchvision_net("E", 224)
    assert not has_torchvision_net("E", 32)
    assert not has_torchvision_net("C", 224)
    with torch.device("meta"):
        for arch in ("A", "B", "D", "E"):
            loop = PlainLoop(arch, True, None, torch.zeros(1, 3, 224, 224), torch.zeros(1, dtype=torch.int64))
            ours = {name: weight.shape for name, weight in build_model(arch, batch_norm=True).state_dict().items()}
            assert {name: weight.shape for name, weight in loop.model.state_dict().items()} == ours


def test_a_lrns_twin_gives_the_same_logits() -> None:
    from vgg_dist.models.build import build_model

    images = 64 * torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    twin = PlainLoop("A-LRN", False, None, images, torch.zeros(1, dtype=torch.int64)).model.eval()
    with torch.device("meta"):
        ours = build_model("A-LRN").eval()
    ours.load_state_dict(twin.state_dict(), assign=True)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), twin(images))


def test_accuracy_counts_hits() -> None:
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(40, 12, generator=generator), torch.randint(12, (40,), generator=generator)
    ranked = [sorted(range(12), key=row.__getitem__, reverse=True) for row in output.tolist()]
    hits = [sum(label in row[:k] for row, label in zip(ranked, target.tolist(), strict=True)) for k in (1, 5)]
    assert [round(value.item() * 40 / 100) for value in accuracy(output, target, (1, 5))] == hits


# The startup benchmark


def test_evaluation_counts_flops_and_measures_every_way(photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run(EvaluationBenchmark(data=str(photographs), arch="lenet5", test_scale=40, images=5, rounds=2, json=file))
    figures = json.loads(file.read_text())
    ways = figures["evaluation"]
    assert set(ways) == {"dense", "dense, one image at a time", "dense, padded batches", "50 crops"}
    assert all(len(way["images_per_second"]) == 2 and min(way["images_per_second"]) > 0 for way in ways.values())
    layers = [(25 * 6, 28**2), (150 * 16, 10**2), (400 * 120, 1), (120 * 84, 1), (84 * 1000, 1)]  # weights, positions
    by_hand = 2 * sum(weights * positions for weights, positions in layers)
    assert figures["flops_per_image"]["50 crops"] == 50 * by_hand
    assert figures["flops_per_image"]["dense"] > 2 * by_hand  # the image and its mirror image, both larger than a crop


# The command line and the report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loader", "--data", "nowhere/at/all"], "nowhere/at/all"),
        (["loader", "--data", "synthetic", "--train-scale", "100"], "--train-scale 100: must be at least 224"),
        (["loader", "--data", "synthetic", "--train-scale", "300", "256"], "--train-scale 256: must be at least 300"),
        (["loader", "--data", "synthetic", "--threads", "0"], "--threads 0: must be at least 1"),
        (
            ["loader", "--data", "synthetic", "--json", "nowhere/at/all.json"],
            "--json nowhere/at/all.json: cannot be written",
        ),
        (["loader", "--data", "synthetic", "--fast"], "--fast"),
        (["loader", "--data", "synthetic", "--peers", "tape"], "'tape'"),
        (["step", "--archs", "Z"], "'Z'"),
        (["step", "--archs", "A", "--image-size", "31"], "--image-size 31: must be at least 32"),
        (["step", "--archs", "C", "--steps", "0"], "--steps 0: must be at least 1"),
        (["startup", "--lr", "0"], "--lr 0.0: must be more than 0"),
        (["startup", "--repeats", "0"], "--repeats 0: must be at least 1"),
        (["startup", "--bogus"], "--bogus"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message in fails(capsys, monkeypatch, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
@pytest.mark.parametrize("arguments", [["loader", "--data", "synthetic"], ["step"]])
def test_a_gpu_that_is_not_there(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--device cuda" in fails(capsys, monkeypatch, *arguments, "--device", "cuda")


def test_help_needs_no_torch() -> None:
    script = (
        "import sys, runpy; sys.argv = ['x', 'startup', '--help']\n"
        "try: runpy.run_module('vgg_dist.benchmark', run_name='__main__')\n"
        "finally: assert not {'torch', 'ray', 'nvidia.dali'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--repeats" in done.stdout
    assert "--arch" in done.stdout


def test_ratios_are_paired_by_round() -> None:
    # The machine was ten times slower in the second round: each round has its own ratio.
    assert paired_ratio([200.0, 20.0, 300.0], [100.0, 10.0, 100.0]) == 2.0


def test_tables_are_aligned() -> None:
    assert table(["", "rate"], [["a", "1.0"], ["longer", "100.0"]]).splitlines() == [
        "         rate",
        "------  -----",
        "a         1.0",
        "longer  100.0",
    ]


@pytest.mark.gpu
@pytest.mark.slow
def test_loader_on_a_gpu(photographs: Path) -> None:
    figures = measure(small(photographs, device="cuda"))
    assert figures["this loader"]["difference_mean"] < 2  # nvJPEG rounds differently from libjpeg
    assert figures["stock DALI chain"]["difference_mean"] < 8
    assert figures["torchvision DataLoader"]["difference_mean"] < 1e-3


@pytest.mark.gpu
def test_step_on_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    run(StepBenchmark(archs=("A",), batch=4, steps=2, rounds=2, json=file))
    figures = json.loads(file.read_text())["steps"]
    assert [figure["precision"] for figure in figures] == ["fp32", "bf16"]
    assert all(figure["times_plain_loop"] > 0 for figure in figures)


@pytest.mark.slow
def test_step_traces_a_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = StepBenchmark(
        archs=("A",), precisions=("fp32",), batch=2, image_size=32, steps=1, rounds=1, trace=tmp_path / "trace.json"
    )
    run(options)
    assert "aten::convolution_backward" in capsys.readouterr().out
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"aten::convolution_backward", "Optimizer.step#SGD.step"} <= names


@pytest.mark.slow
def test_checkpoint_writes_both_ways_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, file = tmp_path / "storage", tmp_path / "figures.json"
    run(CheckpointBenchmark(arch="lenet5", num_classes=10, storage_path=str(storage), rounds=2, json=file))
    seconds = json.loads(file.read_text())["seconds"]
    assert [len(rounds) for rounds in seconds.values()] == [2, 2, 2]
    assert all(blocked < durable for blocked, durable in zip(*list(seconds.values())[1:], strict=True))
    assert list(storage.iterdir()) == []
    assert "lenet5" in capsys.readouterr().out
