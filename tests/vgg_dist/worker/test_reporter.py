"""Checkpoints that a thread writes: training goes on, they are of one step each, and told of when they are whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.reported_trainings import SMALL, Training, checkpoint, same, steps

from vgg_dist.config import ScaleRange
from vgg_dist.run_folder.choice import local_checkpoint
from vgg_dist.training.state import build_state
from vgg_dist.weights.checkpoint import RECORDS, read_weights


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("undisturbed"))


def test_training_goes_on_while_a_checkpoint_is_written_which_stays_that_steps(
    undisturbed: Training, tmp_path: Path
) -> None:
    gone_on = threading.Event()

    def hold_up(step: int) -> None:
        assert step != 2 or gone_on.wait(60), "training waits for its checkpoint"

    slow = Training(tmp_path, while_writing=hold_up, trained=lambda step: gone_on.set() if step == 3 else None)
    order = [slow.events.index(event) for event in ("3 trained", "2 written", "2 reported", "4 written")]
    assert order == sorted(order)
    assert same(read_weights(checkpoint(tmp_path, 2)), undisturbed.states[2])
    assert not same(undisturbed.states[2], undisturbed.states[3])
    assert same(slow.states[7], undisturbed.states[7])
    assert steps(slow.sent) == list(range(1, 8))


@pytest.mark.parametrize(("report_every_s", "first"), [(0.0, [[1], [2], [3], [4], [5]]), (1e9, [[1], [2, 3, 4, 5]])])
def test_records_are_reported_at_intervals_and_system_metrics_less_often(
    report_every_s: float, first: list[list[int]], tmp_path: Path
) -> None:
    config = replace(SMALL, checkpoint_every=1000, max_steps=5, epochs=1)
    training = Training(tmp_path, config, report_every_s=report_every_s)
    reported = [steps(payload["records"]) for payload in training.payloads]
    assert [each for each in reported if each] == first
    assert [bool(payload["system"]) for payload in training.payloads] == [True] + [False] * (len(reported) - 1)


def test_the_last_checkpoint_is_whole_before_the_training_is_done(undisturbed: Training) -> None:
    assert undisturbed.events[-4:] == ["7 written", "7 reported", "done", "7 trained"]
    for step in (2, 4, 5, 6, 7):
        assert same(read_weights(checkpoint(undisturbed.folder, step)), undisturbed.states[step])
    assert undisturbed.outcome["step"] == 7
    kept = [json.loads((checkpoint(undisturbed.folder, step) / RECORDS).read_text()) for step in (2, 4, 5, 6, 7)]
    assert [steps(records) for records in kept] == [[1, 2], [3, 4], [5], [6], [7]]
    reported = [event for event in undisturbed.events if "reported" in event]
    assert reported == [f"{step} reported" for step in (2, 4, 5, 6, 7)]


def test_the_best_net_is_kept_with_its_errors(tmp_path: Path) -> None:
    """Of nine validations, of which a rate that is far too high makes the last ones worse."""
    training = Training(tmp_path, replace(SMALL, lr=0.3, max_steps=45, epochs=9, checkpoint_every=3))
    validations = [
        (record["metrics"]["val/top5_error"], record["metrics"]["val/top1_error"], record["step"])
        for record in training.sent
        if "val/loss" in record["metrics"]
    ]
    assert len(validations) == 9
    told = {name for record in training.sent for name in record["metrics"]}
    assert "epoch/train_loss" in told
    assert "epoch/bad_images" not in told  # there are none
    *errors, step = min(validations)
    with local_checkpoint(str(tmp_path), "net", "best") as best:
        assert best.step == step
        assert same(read_weights(best.folder), training.states[step])
        assert best.metrics
        assert [best.metrics["val/top5_error"], best.metrics["val/top1_error"]] == errors
    with local_checkpoint(str(tmp_path), "net") as last:
        assert last.step == 45
        assert same(read_weights(last.folder), training.states[45])


def killed_while_writing(folder: Path) -> None:
    """A process that is killed with the checkpoint of step 4 begun, and step 5 trained."""
    gone_on = threading.Event()

    def die(step: int) -> None:
        if step == 4:
            gone_on.wait(60)
            os.kill(os.getpid(), signal.SIGKILL)

    Training(folder, while_writing=die, trained=lambda step: gone_on.set() if step == 5 else None)


@pytest.mark.slow
def test_killed_before_a_checkpoint_is_whole_the_one_before_is_gone_on_from(undisturbed: Training, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed_while_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000000002"]
    resumed = Training(tmp_path, saved=checkpoint(tmp_path, 2))
    assert steps(resumed.prepared.earlier_records) + steps(resumed.sent) == list(range(1, 8))
    assert same(resumed.states[7], undisturbed.states[7])


def full_disk(at: int) -> Callable[[int], None]:
    def refuse(step: int) -> None:
        if step == at:
            raise OSError("No space left on device")

    return refuse


@pytest.mark.parametrize("step", [2, 7])
def test_a_checkpoint_that_is_not_written_ends_the_training(step: int, tmp_path: Path) -> None:
    training = Training(tmp_path, while_writing=full_disk(step))
    storage = training.prepared.config.storage_path
    assert (
        training.outcome["error"]
        == f"--storage-path {storage}: checkpoint of step {step} not written: No space left on device"
    )
    assert "done" not in training.events
    assert f"{step} reported" not in training.events
    assert max(training.states) < 5 if step == 2 else "5 reported" in training.events
    assert set(steps(training.sent)) >= set(range(1, step + 1))  # the metrics are not lost


def test_a_failure_of_another_kind_is_the_workers(tmp_path: Path) -> None:
    def fail(step: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        Training(tmp_path, while_writing=fail)


def test_a_loss_that_is_not_finite_loses_no_checkpoint(tmp_path: Path) -> None:
    training = Training(tmp_path, replace(SMALL, lr=1e18, checkpoint_every=1))
    assert training.outcome["non_finite"]
    last = max(training.states)
    assert f"{last} reported" in training.events
    assert checkpoint(tmp_path, last).is_dir()


def test_of_three_classes_no_top5_error_is_told(small_tree: Path, tmp_path: Path) -> None:
    training = Training(tmp_path, replace(SMALL, data=str(small_tree), train_scale=ScaleRange(37, 37), max_steps=1))
    told = {name for record in training.sent for name in record["metrics"]}
    assert {"train/top1_error", "val/top1_error", "val/loss"} <= told
    assert not [name for name in [*told, *training.outcome["metrics"]] if "top5" in name]


@pytest.mark.gpu
def test_on_a_gpu_a_snapshot_is_of_the_moment_it_was_taken(tmp_path: Path) -> None:
    """The thread copies it in a stream of its own, while the training's stream is kept busy and changes the weights."""
    device = torch.device("cuda", 0)
    state = build_state(replace(SMALL, arch="A", head="linear"), 10, device)
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    before = {key: value.cpu() for key, value in state.model.state_dict().items()}
    momentum = [value["momentum_buffer"].cpu() for value in state.optimizer.state.values()]
    busy = torch.randn(8192, 8192, device=device)
    for _ in range(20):
        busy @ busy
    snapshot = state.snapshot()
    state.optimizer.step()
    thread = threading.Thread(target=snapshot.to_cpu)
    thread.start()
    thread.join()
    assert same(snapshot.weights, before)
    kept = [value["momentum_buffer"] for value in snapshot.rest["optimizer"]["state"].values()]
    assert all(map(torch.equal, kept, momentum))
    assert {value.device.type for value in snapshot.weights.values()} == {"cpu"}
