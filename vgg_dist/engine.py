"""Training and validation in plain torch (paper, sections 3.1 and 4): no Ray, no MLflow.

`train` takes a TrainState from where it stands to the end of the run. It is called by every worker of a torch.distributed
group, or alone; randomness comes from the plan and from seeds per step, so it does not matter where a run was interrupted.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pipelines.batch import IGNORED_LABEL, Batch, Loader
from pipelines.plan import Augmentation, EpochPlan, Samples, Step, evaluation_samples
from vgg_dist.checkpoint import TrainState, local_checkpoint, read_weights
from vgg_dist.config import TrainConfig
from vgg_dist.metrics import ErrorSums
from vgg_dist.models import build_model, init_from_shallower, initialize, macs
from vgg_dist.optim import PlateauSchedule, build_optimizer

Record = dict[str, float]
Report = Callable[[Record, bool], None]
"""Called by every worker with the same metrics; the flag says that the state is to be saved now."""


@dataclass(frozen=True)
class Worker:
    """Which part of the work this process does, and where."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  a torch.device is immutable


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or not a number."""


def build_state(config: TrainConfig, num_classes: int, device: torch.device) -> TrainState:
    """A run at step 0: the net, initialised as the config says, and its optimizer. ValueError for a bad --init-from."""
    model = build_model(
        config.arch,
        num_classes=num_classes,
        batch_norm=config.batch_norm,
        head=config.head,
        image_size=config.image_size,
        dropout=config.dropout,
    )
    initialize(model, config.init, std=config.init_std, generator=torch.Generator().manual_seed(config.seed))
    if config.init_from is not None:
        with local_checkpoint(config.init_from, "--init-from") as folder:
            init_from_shallower(model, read_weights(folder))
    model = model.to(device).to(memory_format=memory_format(autocast_dtype(config.precision, device), device))
    schedule = PlateauSchedule(config.lr, config.patience, config.lr_drops, config.warmup_epochs)
    return TrainState(model, build_optimizer(model, config), schedule)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What matrix products are computed in; None for fp32 throughout. `auto` is bf16 where the hardware multiplies it."""
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        else:
            precision = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_matrix_unit() else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def memory_format(dtype: torch.dtype | None, device: torch.device) -> torch.memory_format:
    """How images and weights lie in memory in training: channels last for matrix units.

    Without those (fp32 on a CPU) the usual format trains D at 224 pixels 1.3 times as fast.
    """
    return torch.contiguous_format if dtype is None and device.type == "cpu" else torch.channels_last


def _has_bf16_matrix_unit() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that a large matrix product reaches on this device now: what utilisation is measured against."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def validate(model: nn.Module, loader: Loader, config: TrainConfig, worker: Worker) -> dict[str, float]:
    """Loss and errors over all images of the loader's store, each counted exactly once, on whatever number of workers."""
    count = len(loader.store)
    first, last = (count * r // worker.world_size for r in (worker.rank, worker.rank + 1))
    sums = ErrorSums(worker.device)
    dtype = autocast_dtype(config.precision, worker.device)
    samples = evaluation_samples(np.arange(first, last), config.val_scale or 0)
    model.eval()
    with torch.no_grad():
        for batch in loader.batches(_micro_batches(samples, config.micro_batch or 0)):
            with torch.autocast(worker.device.type, dtype, enabled=dtype is not None):
                logits = model(batch.images).float()
            sums.add(logits, batch.labels, cross_entropy(logits, batch.labels, reduction="sum"))
    model.train()
    return sums.reduce().result()


def _micro_batches(samples: Samples, size: int) -> Iterator[Samples]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


class Trainer:
    """Takes a run from where its state stands to its end."""

    def __init__(
        self,
        config: TrainConfig,
        state: TrainState,
        train_loader: Loader,
        val_loader: Loader,
        worker: Worker,
        report: Report,
    ) -> None:
        self.config = config
        self.state = state
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.worker = worker
        self.report = report
        self.dtype = autocast_dtype(config.precision, worker.device)
        self.memory_format = memory_format(self.dtype, worker.device)
        self.flops = 6.0 * macs(state.model, config.image_size or 0)  # forward, and twice that backward
        self.peak = matmul_peak(worker.device, self.dtype or torch.float32) * worker.world_size
        self.net: nn.Module = state.model.train()
        self.ddp: DistributedDataParallel | None = None
        if worker.world_size > 1:
            self.net = self.ddp = DistributedDataParallel(self.net, gradient_as_bucket_view=True)
            if config.compress_gradients:
                self.ddp.register_comm_hook(None, default_hooks.bf16_compress_hook)
        if config.compile:
            self.net = cast(nn.Module, torch.compile(self.net))
        self.window = ErrorSums(worker.device)
        self.epoch_sums = ErrorSums(worker.device)
        self.bad_step = torch.full((), math.inf, dtype=torch.float64, device=worker.device)
        self._restart_clock()

    def run(self) -> None:
        """Trains until the last epoch, the last step, or the end of the schedule. Raises NonFiniteLoss."""
        if self.done:  # taken up again after its end
            validation = validate(self.state.model, self.val_loader, self.config, self.worker)
            self.report({f"val/{key}": value for key, value in validation.items()}, False)
        while not self.done:
            self._train_epoch()
            if self.state.samples < self.num_images:  # stopped within the epoch by max_steps
                self._finish(validate(self.state.model, self.val_loader, self.config, self.worker))
                return
            self._end_epoch()

    @property
    def num_images(self) -> int:
        """Training images."""
        return len(self.train_loader.store)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to train."""
        out_of_steps = self.config.max_steps is not None and self.state.step >= self.config.max_steps
        return out_of_steps or self.state.epoch >= self.config.epochs or self.state.schedule.finished

    def _train_epoch(self) -> None:
        config, state, worker = self.config, self.state, self.worker
        plan = EpochPlan(self.num_images, config.seed, state.epoch, augmentation(config))
        share = config.global_batch, worker.rank, worker.world_size, config.micro_batch or 0
        steps = list(plan.steps(state.samples, *share))
        if config.max_steps is not None:
            steps = steps[: config.max_steps - state.step]
        self.epoch_sums.sums.copy_(torch.tensor(state.epoch_sums, dtype=torch.float64))
        if worker.rank:  # what was summed before a restart counts once
            self.epoch_sums.sums.zero_()
        batches = self.train_loader.batches(micro for step in steps for micro in step.micro_batches)
        self._restart_clock()
        for step in steps:
            self._train_step(step, batches)
            saving = state.step % config.checkpoint_every == 0
            if saving or state.step % config.log_every == 0 or step is steps[-1]:
                self._log(saving and step is not steps[-1])

    def _train_step(self, step: Step, batches: Iterator[Batch]) -> None:
        state, worker = self.state, self.worker
        done = state.epoch + state.samples / self.num_images
        for group in state.optimizer.param_groups:
            group["lr"] = state.schedule.rate(done + (step.end - state.samples) / self.num_images)
        state.optimizer.zero_grad(set_to_none=worker.world_size == 1)
        last = len(step.micro_batches) - 1
        for k, micro in enumerate(step.micro_batches):
            start = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - start
            # Dropout: the masks depend on the place in the run, not on what was computed before.
            seed = np.random.SeedSequence([self.config.seed, state.step, worker.rank, k]).generate_state(1)
            torch.manual_seed(int(seed[0]))
            with nullcontext() if self.ddp is None or k == last else self.ddp.no_sync():
                self._forward_backward(batch, worker.world_size / step.count)
            self.planned += int((micro.index >= 0).sum())
        state.optimizer.step()
        state.step += 1
        state.samples = step.end

    def _forward_backward(self, batch: Batch, weight: float) -> None:
        """Adds the gradient of `weight` times the summed loss; DDP takes the mean over workers of what each has."""
        with torch.autocast(self.worker.device.type, self.dtype, enabled=self.dtype is not None):
            logits: Tensor = self.net(batch.images.contiguous(memory_format=self.memory_format))
        loss_sum = cross_entropy(logits.float(), batch.labels, reduction="sum", ignore_index=IGNORED_LABEL)
        (loss_sum * weight).backward()
        self.window.add(logits, batch.labels, loss_sum)
        failed = torch.where(torch.isfinite(loss_sum.detach()), math.inf, self.state.step + 1.0)
        self.bad_step = torch.minimum(self.bad_step, failed)

    def _restart_clock(self) -> None:
        self.clock, self.waited, self.planned = time.perf_counter(), 0.0, 0

    def _log(self, save: bool) -> None:
        """The metrics since the last call, over all workers."""
        state = self.state
        window = self.window.reduce()
        window.sums.cpu()  # waits for a GPU to be through with its queue: its work belongs to the time that follows
        elapsed = time.perf_counter() - self.clock
        counters = torch.tensor([self.planned, self.waited, elapsed], dtype=torch.float64, device=self.worker.device)
        bad_step = self.bad_step.clone()
        if dist.is_initialized():
            dist.all_reduce(counters)
            dist.all_reduce(bad_step, dist.ReduceOp.MIN)
        if math.isfinite(bad_step.item()):
            raise NonFiniteLoss(
                f"the loss is not finite at step {int(bad_step.item())} (epoch {state.epoch}, lr {self._lr():.3g}): "
                "a smaller --lr, --warmup-epochs or --batch-norm is the usual cure"
            )
        planned, waited, total = counters.tolist()
        self._count_bad(int(planned) - window.images)
        self.epoch_sums.sums += self.window.sums
        rate = planned * self.worker.world_size / total
        metrics = {f"train/{key}": value for key, value in window.result().items()}
        metrics |= {
            "lr": self._lr(),
            "epoch": state.epoch + state.samples / self.num_images,
            "images_per_second": rate,
            "data_wait_share": waited / total,
            "model_flops_utilization": rate * self.flops / self.peak,
            "world_size": float(self.worker.world_size),
            "micro_batch": float(self.config.micro_batch or 0),
        }
        self.window = ErrorSums(self.worker.device)
        if save:
            state.epoch_sums = self.epoch_sums.reduce().sums.tolist()
        self.report(metrics, save)
        self._restart_clock()

    def _lr(self) -> float:
        return self.state.optimizer.param_groups[0]["lr"]

    def _count_bad(self, more: int) -> None:
        state, limit = self.state, self.config.max_bad_images
        state.bad_images += more
        if state.bad_images > limit:
            names = "; ".join(self.train_loader.bad_images.values()) or "on other workers"
            raise ValueError(
                f"--max-bad-images {limit}: {state.bad_images} images of epoch {state.epoch} cannot be decoded: {names}"
            )

    def _end_epoch(self) -> None:
        state = self.state
        result = self.epoch_sums.reduce().result()
        metrics = {f"epoch/train_{key}": value for key, value in result.items()}
        metrics["epoch/bad_images"] = float(state.bad_images)
        validation = validate(state.model, self.val_loader, self.config, self.worker)
        state.schedule.epoch_ended(validation["top1_error"])
        state.epoch, state.samples, state.bad_images = state.epoch + 1, 0, 0
        state.epoch_sums = [0.0] * len(ErrorSums.FIELDS)
        self._finish(validation, metrics)

    def _finish(self, validation: dict[str, float], metrics: Record | None = None) -> None:
        if self.state.samples:  # within an epoch
            self.state.epoch_sums = self.epoch_sums.reduce().sums.tolist()
        self.report((metrics or {}) | {f"val/{key}": value for key, value in validation.items()}, True)


def augmentation(config: TrainConfig) -> Augmentation:
    """What the config says about the plan's draws."""
    low, high = config.train_scale or (0, 0)
    return Augmentation((low, high), config.flip, config.color_shift)


def loader_threads(asked: int | None) -> int:
    """Decoding threads of this process: as asked, else the CPUs it was given."""
    return asked or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def check_images(config: TrainConfig, num_train: int, num_val: int, world_size: int) -> None:
    """ValueError, one line, if the data has fewer images than there are workers."""
    for split, count in (("train", num_train), ("val", num_val)):
        if count < world_size:
            raise ValueError(f"--data {config.data}: {count} images in {split} for {world_size} workers; at least one each")
