"""The training loop in plain torch (paper, section 3.1): no Ray, no MLflow.

`Trainer.run` takes a TrainState from where it stands to the end of the run. Every worker of a torch.distributed group calls
it, or one process alone. All randomness comes from the epochs' plans and from a seed per step, so a run that was interrupted
anywhere resumes with the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch

from pipelines.loading.epoch_plan import Step
from pipelines.loading.loader import Batch, Loader
from vgg_dist.config import WorkerSettings
from vgg_dist.config.base import Interval
from vgg_dist.errors import NonFinite
from vgg_dist.metric_names import (
    EPOCH,
    EPOCH_BAD_IMAGES,
    EPOCH_TRAIN,
    LR,
    MICRO_BATCH,
    TRAIN,
    VAL,
    WORLD_SIZE,
    prefixed,
)
from vgg_dist.models.precision import apply_precision, choose_kernels, resolve_precision
from vgg_dist.training.bad_images import describe_bad
from vgg_dist.training.data import EpochPlans, Members, fc_members, micro_batches, read_ahead, worker_steps
from vgg_dist.training.metrics import MetricSums, reduce_with_one_read
from vgg_dist.training.network_wait import NetworkWait
from vgg_dist.training.objective import CrossEntropy, Objective
from vgg_dist.training.parallelism import ParallelModel, Worker
from vgg_dist.training.state import TrainState
from vgg_dist.training.stopping import AllStop, StopAgreement
from vgg_dist.training.throughput import LogSchedule, Throughput
from vgg_dist.training.validation import validate

Report = Callable[[dict[str, float], bool], None]
"""Called by every worker with the same metrics by name; the flag says that the state is to be saved now."""


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
        objective: Objective | None = None,
    ) -> None:
        self.config = config
        self.state = state
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.worker = worker
        self.report = report
        self.stop = stop or StopAgreement()
        self.objective: Objective = objective or CrossEntropy()
        if worker.device.type == "cuda":
            choose_kernels(config.deterministic)
        apply_precision(resolve_precision(config.precision, worker.device))
        network_wait = NetworkWait(worker.device)
        self.throughput = Throughput(state.model, config, worker, network_wait)
        state.split_fc(worker, network_wait)
        self.parallel_model = ParallelModel(state.model, config, worker, network_wait)
        self.plans = EpochPlans(config, train_loader.store)
        # Kernels are tuned per shape, so all micro-batches are padded to one; batch norm would count the padding.
        self.one_shape = worker.device.type != "cpu" and not config.batch_norm
        intervals = (Interval.parse(field, getattr(config, field)) for field in ("log_every", "checkpoint_every"))
        self.log_schedule = LogSchedule(*intervals)
        self.logged_step = state.step
        self.saved_at, self.saved_place = time.monotonic(), state.place  # what was restored is saved already
        self.interval_sums = MetricSums(self.objective, worker.device)  # since the last log
        self.epoch_sums = MetricSums(self.objective, worker.device)
        # The first step whose loss was not finite; inf while there is none.
        self.bad_step = torch.full((), math.inf, dtype=torch.float64, device=worker.device)

    @property
    def num_images(self) -> int:
        """The number of training images."""
        return len(self.train_loader.store)

    @property
    def done(self) -> bool:
        """Whether the last epoch, the last step or the end of the schedule is reached."""
        out_of_steps = self.config.max_steps is not None and self.state.step >= self.config.max_steps
        return out_of_steps or self.state.epoch >= self.config.epochs or self.state.schedule.finished

    def run(self) -> None:
        """Trains until `done`.

        Raises NonFinite, and ValueError for more undecodable images than --max-bad-images. Raises AllStop if all workers are
        told to stop before the end; what they have trained is reported first, to be saved.
        """
        try:
            if self.done:  # a finished run that was started again: only its validation is reported
                self.report(self._validation_metrics(self._validate()), False)
            while not self.done:
                self._train_epoch()
                if self.state.samples < self.num_images:  # max_steps was reached within the epoch
                    self._save(self._validation_metrics(self._validate()))
                else:
                    self._end_epoch()
        except AllStop:
            if self.state.step > self.logged_step:
                self._log(save=True, last=False)
            elif self.state.place != self.saved_place:
                self._save({})
            raise

    def _train_epoch(self) -> None:
        """Trains the rest of the current epoch, or up to --max-steps."""
        state, config = self.state, self.config
        plan = self.plans.plan(state.epoch)
        steps = list(worker_steps(plan, config, self.worker, state.samples, state.step, self.one_shape))
        self._start_epoch_sums()
        with read_ahead(plan, config, self.worker, state.samples, self.train_loader.store) as ahead:
            self.throughput.try_loader(self.train_loader, steps)
            batches = self.train_loader.batches(micro_batches(steps, ahead))
            self.throughput.restart()
            for step in steps:
                self.stop.begin()
                self._train_step(step, batches, fc_members(plan, step, config, self.worker))
                last = step is steps[-1]
                save = self.log_schedule.checkpoint_due(state.step)
                if save or self.log_schedule.log_due(state.step) or last:
                    self._log(save, last)

    def _start_epoch_sums(self) -> None:
        """Starts the sums of the epoch: at 0, or for a resumed one at the saved sums, on rank 0 so that they count once."""
        self.epoch_sums.sums.zero_()
        if self.state.samples and self.worker.rank == 0:
            self.epoch_sums.sums.copy_(torch.tensor(self.state.epoch_sums, dtype=torch.float64))

    def _train_step(self, step: Step, batches: Iterator[Batch], members: list[Members]) -> None:
        """One optimizer step on this worker's micro-batches, which `batches` gives in order; `members`: see `fc_members`."""
        state, worker = self.state, self.worker
        epochs_done = state.epoch + state.samples / self.num_images
        for group in state.optimizer.param_groups:
            group["lr"] = state.schedule.rate(epochs_done + (step.end - state.samples) / self.num_images)
        state.optimizer.zero_grad(set_to_none=worker.world_size == 1)
        last = len(step.micro_batches) - 1
        for k, micro in enumerate(step.micro_batches):
            with self.throughput.data_wait.waiting():
                batch = next(batches)
            with self.parallel_model.gradient_exchange(last=k == last):
                self._forward_backward(batch, members[k], worker.world_size / step.count)
            self.throughput.images += int((micro.index >= 0).sum())
        state.optimizer.step()
        state.step += 1
        state.samples = step.end

    def _forward_backward(self, batch: Batch, members: Members, weight: float) -> None:
        """Adds the gradient of `weight` times the summed loss; DDP averages the gradients of all workers."""
        outputs = self.parallel_model(batch.images, members, self.state.step)
        loss_sum = self.objective.loss_sum(outputs, batch)
        self.parallel_model.backward(loss_sum * weight)
        self.interval_sums.add(outputs, batch, loss_sum)
        failed = torch.where(torch.isfinite(loss_sum.detach()), math.inf, self.state.step + 1.0)
        self.bad_step = torch.minimum(self.bad_step, failed)

    def _log(self, save: bool, last: bool) -> None:
        """Reports the metrics since the last log, over all workers. `last`: a validation follows, which saves the state."""
        state = self.state
        self.interval_sums.sums.cpu()  # waits until a GPU's queue is empty, so that its work counts in this interval
        since_save = 0.0 if self.worker.rank else time.monotonic() - self.saved_at  # rank 0's clock decides
        local = [*self.throughput.counters(), since_save]
        sums, (*counters, since_save), bad_step = reduce_with_one_read(self.interval_sums.sums, local, self.bad_step)
        self._check_finite(bad_step)
        images, seconds, *_ = counters
        self._count_bad_images(int(images - sums[-1]))
        self.epoch_sums.sums += self.interval_sums.sums
        steps = state.step - self.logged_step
        metrics = prefixed(TRAIN, self.objective.means(sums)) | self.throughput.metrics(counters, steps)
        metrics |= {
            LR: self._lr(),
            EPOCH: self._epochs_trained(),
            WORLD_SIZE: float(self.worker.world_size),
            MICRO_BATCH: float(self.config.micro_batch),
        }
        self.interval_sums = MetricSums(self.objective, self.worker.device)
        due = self.log_schedule.logged(state.step, seconds / self.worker.world_size / steps, since_save)
        self.logged_step = state.step
        if (save or due) and not last:
            self._save(metrics)
        else:
            self.report(metrics, False)
        self.throughput.restart()

    def _check_finite(self, bad_step: float) -> None:
        """NonFinite if some step's loss was not finite; `bad_step`: the first such step, else inf."""
        if math.isfinite(bad_step):
            raise NonFinite(
                f"the loss is not finite at step {int(bad_step)} (epoch {self.state.epoch}, lr {self._lr():.3g}): "
                "a smaller --lr, --warmup-epochs or --batch-norm is the usual cure"
            )

    def _count_bad_images(self, more: int) -> None:
        """ValueError, on all workers alike, if more images of the epoch are undecodable than --max-bad-images."""
        state, limit = self.state, self.config.max_bad_images
        state.bad_images += more
        if state.bad_images > limit:
            names = describe_bad(self.train_loader.bad_images, self.worker.device)
            raise ValueError(
                f"--max-bad-images {limit}: {state.bad_images} images of epoch {state.epoch} cannot be decoded: {names}"
            )

    def _save(self, metrics: dict[str, float]) -> None:
        """Reports the metrics, and that the state is to be saved."""
        self.saved_at, self.saved_place = time.monotonic(), self.state.place
        if self.state.samples:  # within an epoch
            self.state.epoch_sums = self.epoch_sums.reduce().sums.tolist()
        self.report(metrics, True)

    def _end_epoch(self) -> None:
        """Validates, advances the schedule and the epoch, and saves."""
        state = self.state
        metrics = prefixed(EPOCH_TRAIN, self.epoch_sums.reduce().means())
        if state.bad_images:
            metrics[EPOCH_BAD_IMAGES] = float(state.bad_images)
        validation = self._validate()
        state.schedule.epoch_ended(validation[self.objective.schedule_metric])
        state.epoch, state.samples, state.bad_images = state.epoch + 1, 0, 0
        state.epoch_sums = [0.0] * len(self.objective.fields)
        self._save(metrics | self._validation_metrics(validation))

    def _validate(self) -> dict[str, float]:
        return validate(self.state.model, self.val_loader, self.config, self.worker, self.stop, self.objective)

    def _validation_metrics(self, validation: dict[str, float]) -> dict[str, float]:
        return prefixed(VAL, validation) | {EPOCH: self._epochs_trained()}

    def _epochs_trained(self) -> float:
        return self.state.epoch + self.state.samples / self.num_images

    def _lr(self) -> float:
        return self.state.optimizer.param_groups[0]["lr"]
