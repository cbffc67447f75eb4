"""Training and validation in plain torch (paper, sections 3.1 and 4): no Ray, no MLflow.

`train` takes a TrainState from where it stands to the end of the run. It is called by every worker of a torch.distributed
group, or alone; randomness comes from the plan and from seeds per step, so it does not matter where a run was interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipelines.loading.epoch_plan import EpochPlan, Step, filled
from pipelines.loading.loader import IGNORED_LABEL, Batch, Loader
from vgg_dist.config import WorkerSettings
from vgg_dist.config.base import Interval
from vgg_dist.errors import NonFinite
from vgg_dist.models.build import macs
from vgg_dist.models.precision import (
    autocast,
    autocast_dtype,
    choose_kernels,
    matmul_peak,
    memory_format,
    resolve_precision,
)
from vgg_dist.training.bad_images import describe_bad
from vgg_dist.training.data import augmentation
from vgg_dist.training.metrics import ErrorSums, means, over_workers
from vgg_dist.training.parallelism import Worker, wrap
from vgg_dist.training.state import TrainState
from vgg_dist.training.stopping import AllStop, StopAgreement
from vgg_dist.training.throughput import DataWait, Pace, measure_loader
from vgg_dist.training.validation import validate

Record = dict[str, float]
Report = Callable[[Record, bool], None]
"""Called by every worker with the same metrics; the flag says that the state is to be saved now."""


FEW = 8  # a micro-batch that lacks an eighth at most is filled up to the shape of the others
SETTLED = 4  # the look at which kernels are tuned: then the verdict is given, which of loader and step limits the run


class Trainer:
    """Takes a run from where its state stands to its end."""

    def __init__(
        self,
        config: WorkerSettings,
        state: TrainState,
        train_loader: Loader,
        val_loader: Loader,
        worker: Worker,
        report: Report,
        stop: StopAgreement | None = None,
    ) -> None:
        self.stop = stop or StopAgreement()
        self.config = config
        self.state = state
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.worker = worker
        self.report = report
        self.on_gpu = worker.device.type == "cuda"
        if self.on_gpu:
            choose_kernels(config.deterministic)
        precision = resolve_precision(config.precision, worker.device)
        self.dtype = autocast_dtype(precision, worker.device)
        self.memory_format = memory_format(self.dtype, worker.device)
        self.flops = 6.0 * macs(state.model, config.image_size)  # forward, and twice that backward
        self.peak = matmul_peak(worker.device, precision) * worker.world_size
        self.net, self.ddp = wrap(state.model.train(), config, worker.world_size)
        # One shape for all micro-batches, as kernels are tuned for a shape; batch norm would count the images that fill up.
        self.one_shape = worker.device.type != "cpu" and not config.batch_norm
        intervals = (Interval.parse(field, getattr(config, field)) for field in ("log_every", "checkpoint_every"))
        self.pace = Pace(*intervals)
        self.saved, self.saved_place = time.monotonic(), state.place  # what is restored is saved already
        self.data_wait = DataWait(worker.device)
        self.next_plan: tuple[int, Future[EpochPlan]] | None = None
        self.loader_rate: float | None = None if self.on_gpu else 0.0  # images/s of this worker's loader alone; 0: not known
        self.looks = 0
        self.window = ErrorSums(worker.device)
        self.epoch_sums = ErrorSums(worker.device)
        self.bad_step = torch.full((), math.inf, dtype=torch.float64, device=worker.device)
        self._restart_clock()

    def run(self) -> None:
        """Trains until the last epoch, the last step, or the end of the schedule. Raises NonFinite.

        AllStop where all workers are to stop before that; what they have trained is reported, to be saved.
        """
        try:
            self._run()
        except AllStop:
            if self.state.step > self.first_step:
                self._log(True, False)
            elif self.state.place != self.saved_place:
                self._save({})
            raise

    def _run(self) -> None:
        if self.done:  # taken up again after its end
            validation = self._validate()
            self.report({f"val/{key}": value for key, value in validation.items()}, False)
        while not self.done:
            self._train_epoch()
            if self.state.samples < self.num_images:  # stopped within the epoch by max_steps
                self._finish(self._validate())
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
        state = self.state
        plan = self._plan(state.epoch)
        steps = list(self._steps(plan))
        self.epoch_sums.sums.copy_(torch.tensor(state.epoch_sums, dtype=torch.float64))
        if self.worker.rank:  # what was summed before a restart counts once
            self.epoch_sums.sums.zero_()
        micro_batches = (micro for step in steps for micro in step.micro_batches)
        if self.loader_rate is None and steps:  # none where only the validation is left
            self.loader_rate = measure_loader(self.train_loader, steps)
        batches = self.train_loader.batches(micro_batches)
        self._restart_clock()
        for step in steps:
            self.stop.begin()
            self._train_step(step, batches)
            last = step is steps[-1]
            saving = self.pace.save_due(state.step)
            if saving or self.pace.log_due(state.step) or last:
                self._log(saving, last)

    def _plan(self, epoch: int) -> EpochPlan:
        """The epoch's plan; the next one's is drawn meanwhile, which takes seconds for a million images."""
        shape = self.num_images, self.config.seed, augmentation(self.config)

        def draw(number: int) -> EpochPlan:
            return EpochPlan(*shape[:2], number, shape[2])

        drawn = self.next_plan[1].result() if self.next_plan and self.next_plan[0] == epoch else draw(epoch)
        if epoch + 1 < self.config.epochs:
            thread = ThreadPoolExecutor(1, thread_name_prefix="plan")
            self.next_plan = epoch + 1, thread.submit(draw, epoch + 1)
            thread.shutdown(wait=False)
        return drawn

    def _steps(self, plan: EpochPlan) -> Iterator[Step]:
        """This worker's share of what is left of the epoch."""
        config, worker, state = self.config, self.worker, self.state
        share = config.global_batch, worker.rank, worker.world_size, config.micro_batch
        size = plan.largest_micro_batch(config.global_batch, worker.world_size, config.micro_batch)
        for number, step in enumerate(plan.steps(state.samples, *share), start=state.step):
            if config.max_steps is not None and number >= config.max_steps:
                return
            if self.one_shape:
                # What lacks more is the rest of a step that was begun with other settings: it keeps its own shape.
                micro_batches = [filled(m, size) if len(m) >= size - size // FEW else m for m in step.micro_batches]
                step = Step(step.end, step.count, micro_batches)
            yield step

    def _train_step(self, step: Step, batches: Iterator[Batch]) -> None:
        state, worker = self.state, self.worker
        done = state.epoch + state.samples / self.num_images
        for group in state.optimizer.param_groups:
            group["lr"] = state.schedule.rate(done + (step.end - state.samples) / self.num_images)
        state.optimizer.zero_grad(set_to_none=worker.world_size == 1)
        last = len(step.micro_batches) - 1
        for k, micro in enumerate(step.micro_batches):
            with self.data_wait.waiting():
                batch = next(batches)
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
        with autocast(self.worker.device, self.dtype):
            logits: Tensor = self.net(batch.images.contiguous(memory_format=self.memory_format))
        loss_sum = cross_entropy(logits.float(), batch.labels, reduction="sum", ignore_index=IGNORED_LABEL)
        (loss_sum * weight).backward()
        self.window.add(logits, batch.labels, loss_sum)
        failed = torch.where(torch.isfinite(loss_sum.detach()), math.inf, self.state.step + 1.0)
        self.bad_step = torch.minimum(self.bad_step, failed)

    def _restart_clock(self) -> None:
        self.clock, self.planned, self.first_step = time.perf_counter(), 0, self.state.step
        self.data_wait.take()

    def _log(self, save: bool, last: bool) -> None:
        """The metrics since the last call, over all workers; with a checkpoint, if one is due and none follows anyhow."""
        state = self.state
        self.window.sums.cpu()  # waits for a GPU to be through with its queue: its work belongs to the time that follows
        elapsed = time.perf_counter() - self.clock
        since_save = 0.0 if self.worker.rank else time.monotonic() - self.saved  # rank 0's clock decides
        local = [self.planned, self.data_wait.take(), elapsed, since_save, self.loader_rate or 0.0]
        sums, counters, bad_step = over_workers(self.window.sums, local, self.bad_step)
        planned, waited, total, since_save, loader_rate = counters
        if math.isfinite(bad_step):
            raise NonFinite(
                f"the loss is not finite at step {int(bad_step)} (epoch {state.epoch}, lr {self._lr():.3g}): "
                "a smaller --lr, --warmup-epochs or --batch-norm is the usual cure"
            )
        self._count_bad(int(planned - sums[-1]))
        self.epoch_sums.sums += self.window.sums
        rate = planned * self.worker.world_size / total
        metrics = {f"train/{key}": value for key, value in means(sums).items()}
        metrics |= {
            "lr": self._lr(),
            "epoch": state.epoch + state.samples / self.num_images,
            "images_per_second": rate,
            "data_wait_share": waited / total,
            "model_flops_utilization": rate * self.flops / self.peak,
            "world_size": float(self.worker.world_size),
            "micro_batch": float(self.config.micro_batch),
        }
        self.looks += 1
        if self.looks == SETTLED and loader_rate:
            metrics |= {
                "loader_images_per_second": loader_rate,
                "step_images_per_second": planned * self.worker.world_size / max(total - waited, 1e-9),
            }
        self.window = ErrorSums(self.worker.device)
        steps = state.step - self.first_step
        due = self.pace.looked(state.step, total / self.worker.world_size / steps, since_save)
        save = (save or due) and not last
        if save:
            self._save(metrics)
        else:
            self.report(metrics, False)
        self._restart_clock()

    def _save(self, metrics: Record) -> None:
        """Reports with a checkpoint."""
        self.saved, self.saved_place = time.monotonic(), self.state.place
        if self.state.samples:  # within an epoch
            self.state.epoch_sums = self.epoch_sums.reduce().sums.tolist()
        self.report(metrics, True)

    def _validate(self) -> dict[str, float]:
        return validate(self.state.model, self.val_loader, self.config, self.worker, self.stop)

    def _lr(self) -> float:
        return self.state.optimizer.param_groups[0]["lr"]

    def _count_bad(self, more: int) -> None:
        state, limit = self.state, self.config.max_bad_images
        state.bad_images += more
        if state.bad_images > limit:
            names = describe_bad(self.train_loader.bad_images, self.worker.device)
            raise ValueError(
                f"--max-bad-images {limit}: {state.bad_images} images of epoch {state.epoch} cannot be decoded: {names}"
            )

    def _end_epoch(self) -> None:
        state = self.state
        result = self.epoch_sums.reduce().result()
        metrics = {f"epoch/train_{key}": value for key, value in result.items()}
        if state.bad_images:
            metrics["epoch/bad_images"] = float(state.bad_images)
        validation = self._validate()
        state.schedule.epoch_ended(validation["top1_error"])
        state.epoch, state.samples, state.bad_images = state.epoch + 1, 0, 0
        state.epoch_sums = [0.0] * len(ErrorSums.FIELDS)
        self._finish(validation, metrics)

    def _finish(self, validation: dict[str, float], metrics: Record | None = None) -> None:
        self._save((metrics or {}) | {f"val/{key}": value for key, value in validation.items()})
