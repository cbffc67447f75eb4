"""Runs a training of one worker in the command's own process, without Ray, which takes longer to start than torch.

This is what happens on a machine without a cluster, where there is one worker. The run's folder is the same as of a training
on Ray, and either resumes the other.
"""

from __future__ import annotations

import gc
import os
import threading
import warnings
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.failures import what_failed
from vgg_dist.config import TrainSettings
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.launch.follow import BEFORE, Started, check_value, follow, raise_if_stopped, resumes
from vgg_dist.launch.launch import Launch, Trained, run_launch
from vgg_dist.launch.open_record import begin_opening, opened
from vgg_dist.launch.reports import Reports
from vgg_dist.launch.run_record import SERVER_WAIT_S, STOP_WAIT_S
from vgg_dist.launch.terminal import shown_lines
from vgg_dist.ray_cluster.job_lines import LineSender
from vgg_dist.ray_cluster.nodes import describe_workers
from vgg_dist.run_folder.checkpoints import remove_checkpoint
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.outcome import Earlier
from vgg_dist.startup_marks import mark
from vgg_dist.storage import remove_file
from vgg_dist.tracking import TrackedRun
from vgg_dist.tracking.connection import connect, warn_on_failure
from vgg_dist.training.stopping import training_key

if TYPE_CHECKING:
    from vgg_dist.training.parallelism import Worker

POLL_S = 0.1  # for messages and lines, which cost little here
CHECKPOINTS_KEPT = 2  # as Ray Train does: see `ray_train.build_trainer`
LIBRARIES = "torch|torchvision|nvidia|mlflow|pydantic"


def run_training(config: TrainSettings, resources: dict[str, float], earlier: Earlier | None) -> dict[str, float]:
    """Runs a training here, `config` being resolved: see `launch.run_launch`. `resources`: what its worker has."""
    return run_launch(_Launch(config, resources), config, earlier)


class _Launch(Launch):
    """A training in this process."""

    training: Started[Trained]

    def __init__(self, config: TrainSettings, resources: dict[str, float]) -> None:
        super().__init__(config)
        self.resources = resources
        self.messages = LocalMessages()
        self.reports: Future[Reports] = Future()

    def connect(self) -> None:
        """There is nothing to connect to."""
        os.environ.setdefault("OMP_NUM_THREADS", str(int(self.resources["CPU"])))  # as Ray does; read when torch is imported
        # What a user can do nothing about; on Ray, `worker_output` leaves it out.
        warnings.filterwarnings("ignore", module=rf"({LIBRARIES})\.")
        self.config = self.config.with_workers(1)

    def open_record(self) -> TrackedRun:
        """Opens the MLflow run in another process. Meanwhile this one imports torch, and opens data and net.

        Interrupted where the command was told to stop.
        """
        self.say("starting")
        process = begin_opening(self.config)
        self.training = Started(self._train)
        try:
            how = BEFORE + resumes(self.config.name)
            run = opened(process, self.config, check=lambda: raise_if_stopped(self.messages, how))
            self.reports.set_result(Reports(run, self.config, LineSender(self.config.name, lambda: self.messages)))
        except BaseException as error:
            self.reports.set_exception(error)
            raise
        mark("MLflow run open")
        return run

    def fit(self, run: TrackedRun) -> Trained:
        """Waits for the training, and meanwhile shows progress. TrainingError for a failure, Interrupted for a stop."""
        config = self.config
        steps = " steps" if str(config.log_every).isdecimal() else ""
        self.say(f"run {config.name}, {describe_workers([self.resources])}; metrics every {config.log_every}{steps}")
        with shown_lines(self.messages, POLL_S):
            trained = follow(self.training, config, self.messages, partial(self._say_stopping, run), POLL_S)
            check_value(trained.value, config, self.messages)
        self.reports.result().close(SERVER_WAIT_S)
        return trained

    def _say_stopping(self, run: TrackedRun, text: str) -> None:
        # Before the first step mlflow may not be imported yet. A second signal leaves too little time for that.
        threading.Thread(target=connect, args=(run.tracking_uri,), name="mlflow", daemon=True).start()
        self.say(text)

    def send_last_metrics(self, run: TrackedRun, error: BaseException) -> None:
        """By the training's own tracker if it is still open: another one would send the same."""
        reports = self.reports.result()
        with warn_on_failure("MLflow"):
            connect(run.tracking_uri)  # its import may take longer than the wait that follows
        if reports.is_closed:
            super().send_last_metrics(run, error)
        else:
            reports.close(STOP_WAIT_S if isinstance(error, Interrupted) else SERVER_WAIT_S)

    def _train(self) -> Trained:
        """Trains, after a failure again from the last checkpoint, --max-failures times."""
        from vgg_dist.worker.process import run_worker

        mark("worker imports done")
        failures = 0
        while True:
            launcher = LocalLauncher(self.config, self._worker(), self.messages, self.reports)
            try:
                value = run_worker(self.config, launcher)
                gc.collect()  # the net and its optimizer: their checkpoint is read from here on
                return Trained(value, launcher.kept[-1] if launcher.kept else "")
            except TrainingError:  # what a restart cannot fix
                raise
            except Exception as error:
                failed = f"worker 0 failed: {what_failed(error)}"
            self.messages.remove(training_key(self.config.name))
            self.reports.result().tell([failed])
            failures += 1
            if failures > self.config.max_failures:
                raise TrainingError(failed)
            del launcher
            gc.collect()  # the net and the loaders of the failed try

    def _worker(self) -> Worker:
        import torch

        from vgg_dist.training.parallelism import Worker

        on_gpu = "GPU" in self.resources and torch.cuda.is_available()
        return Worker(device=torch.device("cuda", 0) if on_gpu else torch.device("cpu"))


class LocalMessages:
    """The messages between the threads of a training in this process, as `ray_cluster.job_messages` on Ray."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def put(self, key: str, value: str) -> None:
        """Stores a message, replacing one with the same key."""
        self.values[key] = value

    def get(self, key: str) -> str | None:
        """The message with this key, or None."""
        return self.values.get(key)

    def remove(self, key: str) -> None:
        """Deletes the message with this key, if there is one."""
        self.values.pop(key, None)

    def keys(self, prefix: str) -> list[str]:
        """All keys with this prefix."""
        return [key for key in list(self.values) if key.startswith(prefix)]


class LocalLauncher:
    """The command, to the worker in its process (a `worker.launcher.Launcher`)."""

    report_every_s = 0.5  # a report waits for nothing

    def __init__(self, config: TrainSettings, worker: Worker, messages: LocalMessages, reports: Future[Reports]) -> None:
        """`reports`: there once the MLflow run is open."""
        self.worker = worker
        self.run = RunFolder.of(config)
        self.messages = messages
        self.reports = reports
        self.kept: list[str] = []
        """The checkpoints that were reported and not removed, oldest first."""

    def last_reported(self) -> str | None:
        """Not known: the run reports all checkpoints in its folder again, and MLflow gets each record once anyway.

        Removes Ray Train's list of an earlier start, which would name checkpoints that are removed from here on.
        """
        remove_file(self.run.ray_list)
        return None

    def await_record(self) -> None:
        """Waits for the MLflow run, and raises what its opening has raised."""
        self.reports.result()

    def report(self, payload: dict[str, Any], checkpoint: str | None) -> None:
        """Passes it on at once, and removes what is older than the two checkpoints that were reported last."""
        self.reports.result().take([payload], checkpoint is not None)
        if checkpoint is None:
            return
        self.kept = [path for path in self.kept if path != checkpoint] + [checkpoint]
        for path in self.kept[:-CHECKPOINTS_KEPT]:
            try:
                remove_checkpoint(self.run.filesystem, path)
            except FileNotFoundError:
                pass
            except OSError:  # tried again after the next checkpoint
                continue
            self.kept.remove(path)
