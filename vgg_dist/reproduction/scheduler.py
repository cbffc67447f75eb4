"""Trains runs that depend on each other on a Ray cluster: each once the run it starts from is finished, several at once
where there is room.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

import ray

from pipelines import signals
from vgg_dist.config import ReproduceConfig, TrainSettings
from vgg_dist.config.worker_range import fixed_workers
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.launch.driver import DRIVER_MEMORY, LaunchOptions, run_training
from vgg_dist.launch.follow import LEAVING_S, POLL_S, resumes, stop_signal
from vgg_dist.launch.run_record import open_training
from vgg_dist.launch.terminal import shown_lines
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.lost_ray import describe_loss, watched_cluster
from vgg_dist.ray_cluster.nodes import max_concurrent_groups, worker_resources
from vgg_dist.ray_cluster.start import start_ray
from vgg_dist.reproduction.run_graph import Run, longest_first
from vgg_dist.tracking import TrackedRun, finish_run


class RunsFailed(TrainingError):
    """Runs that failed; all that did not depend on them are finished."""

    def __init__(self, failures: Mapping[str, str]) -> None:
        """`failures`: the reason by the name of the run."""
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in failures.items()))
        self.failures = failures


def run_all(config: ReproduceConfig, runs: Sequence[Run], parent: TrackedRun) -> None:
    """Trains all runs; `config` is resolved. Finished runs are found by name and not trained again.

    `parent`: the MLflow run that they are nested in. ValueError for a cluster without room for one run. RunsFailed, with
    the reasons of all failures, once no other run can start. Interrupted, by a signal, once the runs have stopped.
    """
    print("vgg_dist.reproduce: starting Ray", flush=True)
    start_ray()
    with watched_cluster("vgg_dist.reproduce", partial(finish_run, parent, "FAILED")), shown_lines(JobMessages()):
        _Scheduler(config, runs, parent).run()


class _Scheduler:
    """Starts runs while there is room for their workers, and keeps how each of them ended."""

    def __init__(self, config: ReproduceConfig, runs: Sequence[Run], parent: TrackedRun) -> None:
        self.config, self.parent, self.num_runs = config, parent, len(runs)
        workers = fixed_workers(config.num_workers)
        self.at_once = max_concurrent_groups(workers) if workers else 1
        resources = worker_resources(None if workers is None else workers * self.at_once)
        self.resources = resources[: len(resources) // self.at_once]
        # The driver of each run is a Ray task that only waits for Ray Train, so it reserves no CPU. Where its node is lost,
        # Ray starts the task again, and the training resumes.
        self.train = ray.remote(num_cpus=0, memory=DRIVER_MEMORY, max_retries=config.max_failures)(run_training)
        self.waiting = longest_first(runs) if self.at_once > 1 else list(runs)
        self.running: dict[ray.ObjectRef, Run] = {}
        self.finished: set[str | None] = {None}
        """Names; None stands for what the runs depend on that start from random weights."""
        self.failures: dict[str, str] = {}
        """The reason for each run that failed."""
        self.stopped: list[str] = []
        """Where each run stopped, after a signal."""
        self.signal = ""
        """The name of the signal to stop; empty until it comes."""

    def run(self) -> None:
        """Trains all runs; see `run_all` for the exceptions."""
        while (self.waiting and not self.signal) or self.running:
            if not self.signal:
                self._start_ready()
            if not self.running:  # the waiting ones depend on runs that failed
                break
            ended, _ = ray.wait(list(self.running), timeout=POLL_S)
            if self._out_of_time():
                break
            for reference in ended:
                self._collect(self.running.pop(reference), reference)
        if self.signal:
            raise self._interrupted()
        if self.failures:
            raise RunsFailed(self.failures)

    def _start_ready(self) -> None:
        """Starts the waiting runs whose dependency is finished, as many as there is room for."""
        ready = [run for run in self.waiting if run.depends_on in self.finished]
        for run in ready[: self.at_once - len(self.running)]:
            self.waiting.remove(run)
            options = LaunchOptions(self.parent, self.resources)
            self.running[self.train.remote(_with_uri(run.config, self.parent.tracking_uri), options)] = run
            number = self.num_runs - len(self.waiting)
            print(f"vgg_dist.reproduce: {run.name} (run {number} of {self.num_runs})", flush=True)

    def _collect(self, run: Run, reference: ray.ObjectRef) -> None:
        """Records how a run has ended. Raises what is neither its failure nor a loss of its process."""
        try:
            ray.get(reference)
            self.finished.add(run.name)
            return
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Interrupted):
                self.stopped.append(f"{run.name}{error.cause.how.partition(';')[0]}")
                return
            if not isinstance(error.cause, ValueError | TrainingError):
                raise
            self.failures[run.name] = str(error.cause)
        except ray.exceptions.RayError as error:
            self.failures[run.name] = describe_loss(error, "its process", f"--name {self.config.name}")
        print(f"vgg_dist.reproduce: {run.name} failed: {self.failures[run.name]}", flush=True)

    def _out_of_time(self) -> bool:
        """Looks for a signal and passes it on; returns whether the time for the runs to stop is over."""
        self.signal = self.signal or stop_signal(JobMessages()) or ""
        return bool(self.signal) and signals.left_s() < LEAVING_S

    def _interrupted(self) -> Interrupted:
        """What to raise after a signal; ends the MLflow records of the runs that did not stop in time."""
        for run in self.running.values():
            record = open_training(_with_uri(run.config, self.parent.tracking_uri), self.parent)
            finish_run(record, "KILLED", "the reproduction was stopped", quick=True)
        where = "".join(f", {each}" for each in self.stopped)
        return Interrupted(self.signal, f"{where}; {resumes(self.config.name)}")


def _with_uri(config: TrainSettings, tracking_uri: str) -> TrainSettings:
    """With the MLflow server of the reproduction; the default would be a database in the run's own --storage-path."""
    return dataclasses.replace(config, tracking_uri=tracking_uri)
