"""One line for a training that failed: which workers, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping

import ray.train
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

from pipelines.failures import what_failed
from vgg_dist.errors import TrainingError

ANSWER_VARIABLE, ANSWER_S = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", 120
"""Ray's variable, and how long a worker's process may not answer before it is taken for dead; by itself Ray waits 10 min."""


def describe_failures(failures: Mapping[int, BaseException]) -> list[str]:
    """One line for each reason for which workers failed, with the ranks that gave it. `failures`: rank -> error."""
    ranks: dict[str, list[str]] = {}
    for rank, error in failures.items():
        if isinstance(error, WorkerHealthCheckTimeoutError):  # Ray's message has several lines
            limit = os.environ.get(ANSWER_VARIABLE, str(ANSWER_S))
            ranks.setdefault(f"no answer for {float(limit):.0f} s ({ANSWER_VARIABLE})", []).append(str(rank))
            continue
        # Ray wraps what ended a worker: the death of its process, or an error that was raised in a call to it.
        cause = getattr(error, "health_check_failure", error)
        ranks.setdefault(what_failed(getattr(cause, "cause", None) or cause), []).append(str(rank))
    return [f"worker{'s' * (len(of) > 1)} {', '.join(of)} failed: {reason}" for reason, of in ranks.items()]


def root_cause(error: ray.train.TrainingFailedError) -> str:
    """One line for a training that Ray Train gave up."""
    if failures := getattr(error, "worker_failures", None):
        return describe_failures(failures)[0]
    cause = getattr(error, "controller_failure", error)
    return str(cause) if isinstance(cause, TrainingError) else what_failed(cause)
