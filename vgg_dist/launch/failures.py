"""One line for a training that failed: which workers, and why."""

from __future__ import annotations

from collections.abc import Mapping

import ray.train

from pipelines.failures import what_failed
from vgg_dist.errors import TrainingError


def describe_failures(failures: Mapping[int, BaseException]) -> list[str]:
    """One line for each reason for which workers failed, with the ranks that gave it. `failures`: rank -> error."""
    ranks: dict[str, list[str]] = {}
    for rank, error in failures.items():
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
