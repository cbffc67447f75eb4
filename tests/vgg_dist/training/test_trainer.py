"""The trainer against autograd on whole batches, one worker against two, undisturbed runs against resumed ones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.trainings import SMALL, Run, same
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipelines.loading.epoch_plan import EpochPlan, evaluation_samples
from pipelines.loading.loader import Batch
from pipelines.loading.open import open_loader
from vgg_dist.config import TrainConfig
from vgg_dist.errors import NonFinite
from vgg_dist.training.data import augmentation
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.state import TrainState, build_state
from vgg_dist.training.validation import validate

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def change(**fields: Any) -> TrainConfig:
    return dataclasses.replace(SMALL, **fields)


def assert_same_updates(start: dict[str, Any], ours: dict[str, Any], oracle: dict[str, Any]) -> None:
    """Each tensor has moved from `start` as the oracle's has, to a hundredth of the way: fp32 sums in another order."""
    for key, value in oracle.items():
        moved = (value - start[key]).norm()
        assert moved > 0, key
        assert (ours[key] - value).norm() < 1e-2 * moved, key


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.slow
def test_a_step_is_sgd_on_the_mean_loss_of_the_global_batch(device: str) -> None:
    """Against autograd on the whole batch and torch's SGD, with gradient accumulation in pieces of 5."""
    worker = Worker(device=torch.device(device))
    run = Run(change(max_steps=3, micro_batch=5, momentum=0.9), worker)
    oracle = build_state(run.config, 10, worker.device).model
    optimizer = torch.optim.SGD(oracle.parameters(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    plan = EpochPlan(40, 0, 0, augmentation(run.config))
    ends = [0, *plan.step_ends(16).tolist()]
    batches = [plan.samples[slice(*cut)] for cut in pairwise(ends)]
    loader = open_loader(
        run.train, run.trainer.train_loader.preprocessing, num_threads=1, max_batch=16, device=worker.device
    )
    for batch in loader.batches(batches):
        optimizer.zero_grad()
        cross_entropy(oracle(batch.images), batch.labels).backward()
        optimizer.step()
    start = run.weights()
    assert_same_updates(start, run.run().weights(), oracle.cpu().state_dict())


@pytest.mark.parametrize("device", DEVICES)
def test_validation_counts_every_image_once(device: str) -> None:
    worker = Worker(device=torch.device(device))
    run = Run(change(micro_batch=7), worker)
    model, loader = run.state.model.eval(), run.trainer.val_loader
    samples = evaluation_samples(np.arange(25), run.config.val_scale)
    everything = open_loader(run.val, loader.preprocessing, num_threads=1, max_batch=25, device=worker.device)
    (whole,) = everything.batches([samples])
    with torch.no_grad():
        logits = model(whole.images)
    wrong = (logits.argmax(1) != whole.labels).float().mean().item() * 100
    ranks = (logits > logits.gather(1, whole.labels[:, None])).sum(1)
    result = validate(model, loader, run.config, worker)
    assert result["top1_error"] == pytest.approx(wrong)
    assert result["top5_error"] == pytest.approx((ranks >= 5).float().mean().item() * 100)
    assert result["loss"] == pytest.approx(cross_entropy(logits, whole.labels).item(), rel=1e-5)


DAMAGED = (3, 11, 24)


def damage(run: Run) -> None:
    """Some of the validation images are no images any more."""
    whole = run.val.read
    run.val.read = lambda index: b"\x89PNG no more" if index in DAMAGED else whole(index)  # type: ignore[method-assign]


def test_validation_counts_what_it_leaves_out_each_time(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(change(micro_batch=7, max_bad_images=3), Worker())
    damage(run)
    model, loader = run.state.model, run.trainer.val_loader
    others = np.setdiff1d(np.arange(25), DAMAGED)
    everything = open_loader(run.val, loader.preprocessing, num_threads=1, max_batch=25, device=run.worker.device)
    (whole,) = everything.batches([evaluation_samples(others, run.config.val_scale)])
    with torch.no_grad():
        wrong = (model.eval()(whole.images).argmax(1) != whole.labels).float().mean().item() * 100
    for _ in range(2):  # the loader notes a bad image once; every validation leaves it out
        caplog.clear()
        result = validate(model, loader, run.config, run.worker)
        assert result["bad_images"] == len(DAMAGED)
        assert result["top1_error"] == pytest.approx(wrong)
        last = caplog.messages[-1]
        assert last.startswith("3 of 25 validation images cannot be decoded and are left out of the errors: ")
        assert all(run.val.name(index) in last for index in DAMAGED)
        with pytest.raises(ValueError, match=r"^--max-bad-images 2: 3 of 25 validation images cannot be decoded: \S+"):
            validate(model, loader, change(micro_batch=7, max_bad_images=2), run.worker)
    assert "bad_images" not in validate(model, Run(run.config, run.worker).trainer.val_loader, run.config, run.worker)


def test_a_validation_without_a_single_sound_image_is_no_validation() -> None:
    run = Run(change(max_bad_images=100), Worker())
    run.val.read = lambda index: b"nothing"  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="25 of 25 validation images cannot be decoded"):
        validate(run.state.model, run.trainer.val_loader, run.config, run.worker)


def _validate_in_group(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    messages = []
    for limit in (3, 2):
        config = change(micro_batch=7, max_bad_images=limit)
        run = Run(config, Worker(rank, world))
        damage(run)
        try:
            messages.append(str(validate(run.state.model, run.trainer.val_loader, config, run.worker)["bad_images"]))
        except ValueError as error:
            messages.append(str(error))
    Path(folder, f"messages-{rank}").write_text("\n".join(messages))
    dist.destroy_process_group()


@pytest.mark.slow
def test_bad_validation_images_are_counted_and_named_over_all_workers(tmp_path: Path) -> None:
    """Two on the first worker, one on the last: every worker counts three, and all raise the same."""
    mp.spawn(_validate_in_group, (2, str(tmp_path)), nprocs=2)
    counted, message = (tmp_path / "messages-0").read_text().splitlines()
    assert (tmp_path / "messages-1").read_text() == f"{counted}\n{message}"
    assert counted == "3.0"
    assert message.startswith("--max-bad-images 2: 3 of 25 validation images cannot be decoded: ")
    run = Run(SMALL, Worker())
    assert all(run.val.name(index) in message for index in DAMAGED)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.slow
def test_a_run_resumed_in_mid_epoch_ends_with_the_undisturbed_runs_weights(device: str, tmp_path: Path) -> None:
    """Bit for bit, with dropout, momentum and metrics; batch norm's statistics too."""
    config = change(head="fc", dropout=0.5, batch_norm=True, checkpoint_every="2", deterministic=True)
    worker = Worker(device=torch.device(device))
    whole = Run(config, worker, save_at=(2, tmp_path)).run()
    resumed = Run(config, worker, restore=tmp_path)
    assert (resumed.state.step, resumed.state.epoch, resumed.state.samples) == (2, 0, 26)
    resumed.run()
    assert same(whole.weights(), resumed.weights())
    timed = {"images_per_second", "data_wait_share", "model_flops_utilization"}

    def comparable(run: Run) -> list[Any]:
        return [(s, {k: v for k, v in m.items() if k not in timed}) for s, m in run.reports if s > 2]

    assert comparable(resumed) == comparable(whole)


@pytest.mark.slow
def test_loss_falls_and_metrics_are_those_of_the_epoch() -> None:
    run = Run(change(epochs=6, lr=0.01), Worker()).run()
    losses = [metrics["train/loss"] for _, metrics in run.reports if "train/loss" in metrics]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    first = [metrics for step, metrics in run.reports if step <= 3 and "train/loss" in metrics]
    (epoch,) = [metrics for step, metrics in run.reports if step == 3 and "val/loss" in metrics]
    mean = np.average([metrics["train/loss"] for metrics in first], weights=[13, 13, 14])
    assert epoch["epoch/train_loss"] == pytest.approx(mean, rel=1e-6)
    assert run.state.epoch == 6


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_step() -> None:
    with pytest.raises(NonFinite, match=r"not finite at step [23] .*--lr"):
        Run(change(lr=1e12, log_every="2", epochs=5), Worker()).run()


@pytest.mark.slow
def test_warm_up_and_drops_reach_the_optimizer() -> None:
    run = Run(change(warmup_epochs=1.0), Worker()).run()
    rates = [metrics["lr"] for _, metrics in run.reports if "lr" in metrics]
    assert rates[:3] == pytest.approx([0.002 * 13 / 40, 0.002 * 26 / 40, 0.002])
    run = Run(change(patience=1, lr_drops=1, epochs=9, lr=1e-12), Worker()).run()  # nothing is learned: stalls at once
    rates = [metrics["lr"] for _, metrics in run.reports if "lr" in metrics]
    assert rates == pytest.approx([1e-12] * 6 + [1e-13] * 3, rel=1e-6)
    assert run.state.schedule.finished


@pytest.mark.slow
def test_max_steps_stops_there_with_a_validation(tmp_path: Path) -> None:
    run = Run(change(max_steps=2), Worker(), save_at=(2, tmp_path)).run()
    assert run.state.step == 2
    assert "val/top1_error" in run.reports[-1][1]
    further = Run(change(max_steps=4), Worker(), restore=tmp_path).run()
    assert same(further.weights(), Run(change(max_steps=4), Worker()).run().weights())


def _in_group(rank: int, world: int, folder: str, config: TrainConfig, restore: Path | None) -> None:
    """One of several workers; rank 0 leaves its weights and reports."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{world}", rank=rank, world_size=world)
    run = Run(config, Worker(rank, world), restore, save_at=(2, Path(folder))).run()
    if rank == 0:
        torch.save({"weights": run.weights(), "reports": run.reports}, os.path.join(folder, f"result-{world}.pt"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_equal_one_and_may_change_on_the_way(tmp_path: Path) -> None:
    """Same global batch, no batch norm, no dropout; then the two workers' run is taken on by three, in mid-epoch."""
    # At a larger rate a single ReLU that rounding switches makes a difference of a hundredth after six steps.
    config = change(checkpoint_every="2", micro_batch=3, lr=2e-4)
    run = Run(config, Worker())
    start = run.weights()
    one = run.run()
    mp.spawn(_in_group, (2, str(tmp_path), config, None), nprocs=2)
    two = torch.load(tmp_path / "result-2.pt", weights_only=True)
    mp.spawn(_in_group, (3, str(tmp_path), config, tmp_path), nprocs=3)
    three = torch.load(tmp_path / "result-3.pt", weights_only=True)
    assert_same_updates(start, two["weights"], one.weights())
    assert_same_updates(start, three["weights"], one.weights())
    for several in (two["reports"], three["reports"]):
        mine = {step: m for step, m in several if "val/loss" in m}
        alone = {step: m for step, m in one.reports if "val/loss" in m}
        for step in mine.keys() & alone.keys():
            for name in alone[step]:
                assert mine[step][name] == pytest.approx(alone[step][name], rel=1e-3), (step, name)
    steps = [step for step, m in three["reports"] if "train/loss" in m]
    assert steps == [3, 4, 5, 6]


@pytest.mark.slow
def test_with_batch_norm_several_workers_report_the_errors_of_the_checkpoint(tmp_path: Path) -> None:
    """Each worker has running statistics of its own share; those of the checkpoint are rank 0's."""
    config = change(max_steps=2, batch_norm=True, lr=0.05, data="synthetic:train=40,val=64,size=40")
    mp.spawn(_in_group, (2, str(tmp_path), config, None), nprocs=2)
    two = torch.load(tmp_path / "result-2.pt", weights_only=True)
    ((_, reported),) = [report for report in two["reports"] if "val/loss" in report[1]]
    run = Run(config, Worker())
    run.state.model.load_state_dict(two["weights"])
    alone = validate(run.state.model, run.trainer.val_loader, config, Worker())
    assert reported["val/loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert reported["val/top1_error"] == pytest.approx(alone["top1_error"])


@pytest.mark.slow
def test_filled_micro_batches_have_one_shape_and_train_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = change(micro_batch=5, max_steps=5)
    plain, filled = Run(config, Worker()), Run(config, Worker())
    start, shapes = plain.weights(), set()
    filled.trainer.one_shape = True
    forward = filled.trainer._forward_backward

    def noted(batch: Batch, members: Any, weight: float) -> None:
        shapes.add(len(batch.labels))
        forward(batch, members, weight)

    monkeypatch.setattr(filled.trainer, "_forward_backward", noted)
    monkeypatch.setattr("vgg_dist.training.data.FILLED_SHARE", 4)  # of micro-batches as small as these one image is a fifth
    assert_same_updates(start, filled.run().weights(), plain.run().weights())
    assert shapes == {5}
    timed = {"images_per_second", "data_wait_share", "model_flops_utilization"}
    for (_, ours), (_, theirs) in zip(filled.reports, plain.reports, strict=True):
        for name in theirs.keys() - timed:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name


@pytest.mark.slow
def test_a_gpu_training_says_once_what_its_loader_and_its_step_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgg_dist.training.throughput.LOADER_TRIAL_S", 0.0)
    measured, plain = Run(change(epochs=3, micro_batch=4), Worker()), Run(change(epochs=3, micro_batch=4), Worker())
    measured.trainer.throughput.loader_rate = None
    measured.run()
    rates = {"loader_images_per_second", "step_images_per_second"}
    said = [(step, metrics) for step, metrics in measured.reports if rates & metrics.keys()]
    assert [step for step, _ in said] == [4]
    assert all(said[0][1][rate] > 0 for rate in rates)
    assert same(measured.weights(), plain.run().weights())  # the loader was only tried


@pytest.mark.slow
def test_restoring_another_nets_checkpoint_is_refused(tmp_path: Path) -> None:
    run = Run(change(max_steps=1), Worker(), save_at=(1, tmp_path)).run()
    state: TrainState = build_state(change(arch="B"), 10, torch.device("cpu"))
    with pytest.raises(ValueError, match="--arch A, not B"):
        state.restore(tmp_path, change(arch="B"), run.classes)
    with pytest.raises(ValueError, match="classes"):
        run.state.restore(tmp_path, run.config, run.classes[:-1])
    for name in ("model.safetensors", "state.pt", "config.json"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            run.state.restore(tmp_path, run.config, run.classes)
        (tmp_path / name).write_bytes(content)


class Squares:
    """Half the sum of squared logits: an objective whose loss, fields and gradient are known without a net."""

    fields = ("loss", "images")
    schedule_metric = "loss"

    def loss_sum(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.square().sum() / 2

    def sums(self, outputs: Tensor, batch: Batch, loss_sum: Tensor) -> Tensor:
        return torch.stack([loss_sum.detach().double(), loss_sum.new_tensor(len(outputs)).double()])

    def means(self, sums: Sequence[float]) -> dict[str, float]:
        return {"loss": sums[0] / sums[1]}


def test_another_objective_trains_validates_and_drives_the_schedule(tmp_path: Path) -> None:
    """One step is SGD on its mean over the global batch; its metrics alone are reported; a resume keeps its sums."""
    config = change(micro_batch=5, momentum=0.0, weight_decay=0.0, lr=1e-6, checkpoint_every="2")
    run = Run(dataclasses.replace(config, max_steps=1), Worker(), objective=Squares())
    oracle = build_state(config, 10, torch.device("cpu")).model
    optimizer = torch.optim.SGD(oracle.parameters(), lr=config.lr)
    plan = EpochPlan(40, 0, 0, augmentation(config))
    first = plan.samples[: plan.step_ends(16)[0]]
    preprocessing, cpu = run.trainer.train_loader.preprocessing, torch.device("cpu")
    (batch,) = open_loader(run.train, preprocessing, num_threads=1, max_batch=16, device=cpu).batches([first])
    (oracle(batch.images).square().sum() / 2 / len(first)).backward()
    optimizer.step()
    start = run.weights()
    assert_same_updates(start, run.run().weights(), oracle.state_dict())

    whole = Run(config, Worker(), save_at=(2, tmp_path), objective=Squares()).run()
    resumed = Run(config, Worker(), restore=tmp_path, objective=Squares()).run()
    measured = {name for _, metrics in whole.reports for name in metrics if name.startswith(("train/", "val/", "epoch/"))}
    assert measured == {"train/loss", "val/loss", "epoch/train_loss"}
    best = min(metrics["val/loss"] for _, metrics in whole.reports if "val/loss" in metrics)
    assert whole.state.schedule.best == best
    epochs = [
        [metrics["epoch/train_loss"] for _, metrics in run.reports if "val/loss" in metrics] for run in (whole, resumed)
    ]
    assert epochs[0] == epochs[1]


def test_records_of_validations_say_how_many_epochs_are_trained() -> None:
    for config, expected in ((change(epochs=2), [1.0, 2.0]), (change(max_steps=4), [1.0, 1 + 13 / 40])):
        run = Run(config, Worker()).run()
        assert [metrics["epoch"] for _, metrics in run.reports if "val/loss" in metrics] == expected
        again = Run(config, Worker())
        again.state.step, again.state.epoch, again.state.samples = run.state.place  # finished, and started once more
        assert [metrics["epoch"] for _, metrics in again.run().reports] == expected[-1:]
