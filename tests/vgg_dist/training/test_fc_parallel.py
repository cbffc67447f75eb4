"""FC layers split over workers: against autograd on the whole batch, and trainings against those of one worker."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.trainings import SMALL, Run
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vgg_dist.config import TrainConfig
from vgg_dist.models.dropout import KeyedDropout, set_keys
from vgg_dist.models.vgg import fc_head
from vgg_dist.training.collectives import all_gather, start_reduce_scatter
from vgg_dist.training.fc_parallel import FcGroup, ShardedClassifier, make_group
from vgg_dist.training.network_wait import NetworkWait
from vgg_dist.training.parallelism import Worker, padded
from vgg_dist.training.state import TrainState, build_state

WORLD = 4
WAIT = NetworkWait(torch.device("cpu"))
SIZES = [3, 2, 3, 1]
FEATURES, CLASSES = 7, 5  # neither is divided by the number of workers


def head(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Like the fc head of VGG, with 12 units in place of 4096."""
    torch.manual_seed(3)
    layers = nn.Linear(FEATURES, 12), nn.ReLU(), KeyedDropout(0.4), nn.Linear(12, 12), nn.ReLU(), KeyedDropout(0.4)
    return nn.Sequential(*layers, nn.Linear(12, CLASSES)).to(dtype)


def images_of(rank: int) -> np.ndarray:
    return np.arange(SIZES[rank]) + 100 * rank


def _join(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)


def _check_heads(rank: int, folder: str) -> None:
    """In each worker: logits and gradients of split heads against those of the whole head on all images."""
    _join(rank, folder)
    for size in (2, 4):
        group = make_group(size, rank, WORLD, WAIT)
        for dtype, autocast in ((torch.float64, False), (torch.float32, True)):
            _check_head(rank, group, dtype, autocast)
    _check_collectives(rank)
    dist.destroy_process_group()


def _check_head(rank: int, group: FcGroup, dtype: torch.dtype, autocast: bool) -> None:
    tolerance = {"rtol": 0.05, "atol": 0.01} if autocast else {"rtol": 1e-12, "atol": 1e-14}
    whole, everything = head(dtype), np.concatenate([images_of(other) for other in range(WORLD)])
    inputs = torch.randn(sum(SIZES), FEATURES, dtype=dtype, generator=torch.Generator().manual_seed(1), requires_grad=True)
    set_keys(whole, everything, 1, 2, torch.device("cpu"))
    weights = torch.randn(sum(SIZES), CLASSES, dtype=dtype, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", enabled=autocast):
        expected = whole(inputs)
    (expected * weights).sum().backward()

    mine = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    split = ShardedClassifier(head(dtype), group)
    split.sizes = [SIZES[other] for other in range(rank - group.rank, rank - group.rank + group.size)]
    members = [images_of(other) for other in range(rank - group.rank, rank - group.rank + group.size)]
    set_keys(split, padded(members), 1, 2, torch.device("cpu"))
    net = split if group.replicas is None else DistributedDataParallel(split, process_group=group.replicas)
    own = inputs.detach()[mine].requires_grad_()
    with torch.autocast("cpu", enabled=autocast):
        logits = net(own)
    # As the trainer does: the loss is multiplied by the number of workers, and gradients are means over workers.
    (logits * weights[mine] * WORLD).sum().backward()
    torch.testing.assert_close(logits, expected[mine], **tolerance)
    assert inputs.grad is not None
    assert own.grad is not None
    torch.testing.assert_close(own.grad / WORLD, inputs.grad[mine], **tolerance)
    for name, (dimension, length) in split.lengths.items():
        part, oracle = split.get_parameter(name), whole.get_parameter(name)
        found, gradient = group.gather(part.detach(), dimension, length), group.gather(part.grad, dimension, length)  # type: ignore[arg-type]
        if group.rank == 0:
            assert torch.equal(found, oracle)
            torch.testing.assert_close(gradient, oracle.grad, **tolerance)


def _check_collectives(rank: int) -> None:
    group = dist.group.WORLD
    assert group is not None
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        rows = torch.arange(6, dtype=dtype).reshape(2, 3) + 10 * rank
        gathered = all_gather(rows, group, WAIT)
        assert torch.equal(gathered, torch.cat([rows + 10 * (other - rank) for other in range(WORLD)]))
        summed = start_reduce_scatter(gathered * (rank + 1), group, WAIT).wait()
        assert torch.equal(summed, (rows * sum(range(1, WORLD + 1))).to(dtype))


@pytest.mark.slow
def test_a_split_head_computes_what_the_whole_one_does(tmp_path: Path) -> None:
    """With different numbers of images, dropout, groups of two and of four, in fp64 and under autocast."""
    mp.spawn(_check_heads, (str(tmp_path),), nprocs=WORLD)


CONFIG = dataclasses.replace(
    SMALL,
    head="fc",
    data="synthetic:train=45,val=25,size=40",
    max_steps=10,
    epochs=10,
    micro_batch=3,
    checkpoint_every="5",
    lr=2e-4,
)


def small_state(config: TrainConfig, num_classes: int, device: torch.device) -> TrainState:
    """A run at step 0 in fp64, as in fp32 rounding may switch a ReLU; with 64 units in each hidden FC layer, not 4096."""

    def small_head(in_features: int, num_classes: int, dropout: float) -> nn.Sequential:
        layers = fc_head(in_features, num_classes, dropout)
        layers[0], layers[3], layers[6] = nn.Linear(in_features, 64), nn.Linear(64, 64), nn.Linear(64, num_classes)
        return layers

    with mock.patch("vgg_dist.models.vgg.fc_head", small_head):
        state = build_state(config, num_classes, device)
    state.model.double()
    state.model.features[0].register_forward_pre_hook(lambda layer, inputs: inputs[0].double())
    return state


# Name, number of workers, how many share the FC layers, and the checkpoint that the run resumes from.
LAYOUTS = (
    ("one", 1, 1, None),
    ("2-2", 2, 2, None),
    ("4-2", 4, 2, None),
    ("4-4", 4, 4, None),
    ("4-2, then 2-2", 2, 2, "4-2/step-5"),
    ("2-2, then one", 1, 1, "2-2/step-5"),
)


def _train_all(rank: int, folder: Path) -> None:
    """What each of four processes does: it is a worker of each run that has so many."""
    torch.set_num_threads(1)
    for name, world, fc_workers, restore in LAYOUTS:
        if rank < world:
            rendezvous = f"file://{folder}/rendezvous {name}"
            dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
            _train(folder / name, Worker(rank, world, fc_workers=fc_workers), restore and folder / restore)
            dist.barrier()
            dist.destroy_process_group()


def _train(folder: Path, worker: Worker, restore: Path | None) -> None:
    """Trains; rank 0 leaves losses.pt and checkpoints, first of what the run starts from."""
    with mock.patch("support.trainings.build_state", small_state):
        run = Run(CONFIG, worker, restore)
    losses: list[dict[str, float]] = []

    def save(name: str) -> None:
        snapshot = run.state.snapshot() if worker.rank == 0 or run.state.split is not None else None
        assert (snapshot is None) == (worker.rank > 0)
        if snapshot is not None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            snapshot.write(folder / name, CONFIG, run.classes)

    def report(metrics: dict[str, float], due: bool) -> None:
        losses.append({name: value for name, value in metrics.items() if "loss" in name or "error" in name})
        if due:
            save(f"step-{run.state.step}")

    save("start")
    run.trainer.report = report
    run.trainer.run()
    if worker.rank == 0:
        torch.save(losses, folder / "losses.pt")


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, and its momentum, in which the gradients of all steps are."""
    state = torch.load(checkpoint / "state.pt", weights_only=True)["optimizer"]["state"]
    momentum = {f"momentum {index}": of["momentum_buffer"] for index, of in state.items()}
    return safetensors.torch.load_file(checkpoint / "model.safetensors") | momentum


def assert_same_training(one: Path, other: Path) -> None:
    """Losses agree; weights and momentum have moved as the other's, to a millionth of the way."""
    losses, expected = (torch.load(folder / "losses.pt") for folder in (one, other))
    for mine, theirs in zip(losses[::-1], expected[::-1], strict=False):  # a resumed run has the last ones
        assert mine == pytest.approx(theirs, rel=1e-6)
    start, found, oracle = tensors(other / "start"), tensors(one / "step-10"), tensors(other / "step-10")
    assert found.keys() == oracle.keys()
    for key, value in oracle.items():
        moved = (value - start.get(key, torch.zeros(()))).norm()
        assert moved > 0
        assert (found[key] - value).norm() < 1e-6 * moved, key


@pytest.mark.slow
def test_every_layout_trains_as_one_worker_does_and_takes_over_from_every_other(tmp_path: Path) -> None:
    """Ten steps in micro-batches of three with dropout; the last runs go on from the middle of others."""
    mp.spawn(_train_all, (tmp_path,), nprocs=WORLD)
    for name, _, _, restore in LAYOUTS[1:]:
        assert_same_training(tmp_path / name, tmp_path / "one")
        if restore is not None:
            restored, saved = tensors(tmp_path / name / "start"), tensors(tmp_path / restore)
            assert restored.keys() == saved.keys()
            assert all(torch.equal(restored[key], saved[key]) for key in saved)
