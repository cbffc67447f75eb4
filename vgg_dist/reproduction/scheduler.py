"""Trains runs that depend on each other on a Ray cluster: each once the run it starts from is finished, several at once
where there is room.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import ray

from pipelines import signals
from vgg_dist.config import ReproduceConfig, TrainConfig
from vgg_dist.errors import Interrupted, TrainingError
from vgg_dist.launch.driver import DRIVER_MEMORY, Part, run_training
from vgg_dist.launch.fitting import LEAVING_S, POLL_S, resumes, told_by
from vgg_dist.launch.run_record import open_training
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.nodes import groups_at_once, worker_resources
from vgg_dist.ray_cluster.start import describe_loss, start_ray
from vgg_dist.ray_cluster.watch import watched_cluster
from vgg_dist.reproduction.run_graph import Run, longest_first
from vgg_dist.tracking import TrackedRun, finish_run


def run_all(config: ReproduceConfig, runs: Sequence[Run], parent: TrackedRun) -> None:
    """Trains all runs; `config` is resolved. Finished runs are found by name and not trained again.

    `parent`: the MLflow run that they are nested in. ValueError for a cluster without room for one run. TrainingError, with
    the reasons of all failures, once no other run can start. Interrupted, by a signal, once the runs have stopped.
    """
    print("vgg_dist.reproduce: starting Ray", flush=True)
    start_ray()
    with watched_cluster("vgg_dist.reproduce", partial(finish_run, parent, "FAILED")):
        _run_all(config, runs, parent)


def _run_all(config: ReproduceConfig, runs: Sequence[Run], parent: TrackedRun) -> None:
    at_once = groups_at_once(config.num_workers) if config.num_workers else 1
    resources = worker_resources(None if config.num_workers is None else config.num_workers * at_once)
    resources = resources[: len(resources) // at_once]
    # The driver of each run is a Ray task that only waits for Ray Train, so it reserves no CPU. Where its node is lost, Ray
    # starts the task again, and the training resumes.
    train = ray.remote(num_cpus=0, memory=DRIVER_MEMORY, max_retries=config.max_failures)(run_training)
    waiting = longest_first(runs) if at_once > 1 else list(runs)
    running: dict[ray.ObjectRef, Run] = {}
    done: set[str | None] = {None}
    failures: dict[str, str] = {}
    stop = _Stop()
    while (waiting and not stop.signal) or running:
        ready = [] if stop.signal else [run for run in waiting if run.depends_on in done]
        for run in ready[: at_once - len(running)]:
            waiting.remove(run)
            running[train.remote(_with_uri(run.config, parent.tracking_uri), Part(parent, resources))] = run
            print(f"vgg_dist.reproduce: {run.name} (run {len(runs) - len(waiting)} of {len(runs)})", flush=True)
        if not running:  # the waiting ones depend on runs that failed
            break
        finished, _ = ray.wait(list(running), timeout=POLL_S)
        if stop.out_of_time():
            break
        for run, reference in [(running.pop(reference), reference) for reference in finished]:
            try:
                ray.get(reference)
                done.add(run.name)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, Interrupted):
                    stop.ended.append(f"{run.name}{error.cause.how.partition(';')[0]}")
                    continue
                if not isinstance(error.cause, ValueError | TrainingError):
                    raise
                failures[run.name] = str(error.cause)
                print(f"vgg_dist.reproduce: {run.name} failed: {error.cause}", flush=True)
            except ray.exceptions.RayError as error:
                failures[run.name] = describe_loss(error, "its process", f"--name {config.name}")
                print(f"vgg_dist.reproduce: {run.name} failed: {failures[run.name]}", flush=True)
    if stop.signal:
        for run in running.values():  # they did not stop in time
            record = open_training(_with_uri(run.config, parent.tracking_uri), parent)
            finish_run(record, "KILLED", "the reproduction was stopped", quick=True)
        raise Interrupted(stop.signal, "".join(f", {ended}" for ended in stop.ended) + f"; {resumes(config.name)}")
    if failures:
        raise TrainingError("; ".join(f"{name}: {reason}" for name, reason in failures.items()))


class _Stop:
    """A signal to stop, passed on to the runs, which then have a limited time to stop in order."""

    def __init__(self) -> None:
        self.signal = ""
        """Its name; empty until it comes."""
        self.ended: list[str] = []
        """The runs that have stopped, and where."""

    def out_of_time(self) -> bool:
        """Looks for a signal and passes it on; returns whether the time for the runs to stop is over."""
        self.signal = self.signal or told_by(JobMessages()) or ""
        return bool(self.signal) and signals.left_s() < LEAVING_S


def _with_uri(config: TrainConfig, tracking_uri: str) -> TrainConfig:
    """With the MLflow server of the reproduction; the default would be a database in the run's own --storage-path."""
    return dataclasses.replace(config, tracking_uri=tracking_uri)
