"""Small messages between the workers of a training: whether their set-up succeeded, whether to report now.

They travel over gloo, also between GPUs. The process group of the gradients has a short time-out, so that a hang is noticed;
here a worker may wait for hours, for example until a new node has copied its data.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from pipelines.failures import what_failed
from vgg_dist.errors import TrainingError

T = TypeVar("T")

CONNECT_TIMEOUT = timedelta(minutes=5)
MESSAGE_TIMEOUT = timedelta(days=7)  # a worker that dies ends the wait at once, because its connections break

# Not retried. A network or a storage that is down for a while raises other kinds.
PERMANENT = (
    ValueError, TrainingError, ImportError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError,
)  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """Why a step of the set-up failed on a worker; `permanent`: a retry would fail too."""

    text: str
    host: str
    permanent: bool


class Exchange:
    """A gloo group of all workers; without a torch process group, of this process alone. All methods are collective."""

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        if dist.is_initialized():
            group = dist.new_group(backend="gloo", timeout=CONNECT_TIMEOUT)
            assert isinstance(group, dist.ProcessGroup)  # every worker is in it
            # Earlier versions of torch have no public name for it.
            set_timeout = getattr(dist, "set_timeout", None) or distributed_c10d._set_pg_timeout
            set_timeout(MESSAGE_TIMEOUT, group)
            self._group = group

    def gather(self, value: T) -> list[T]:
        """Every worker's value, by rank."""
        if self._group is None:
            return [value]
        values: list[T] = [value] * dist.get_world_size()
        dist.all_gather_object(values, value, self._group)
        return values

    def broadcast(self, *numbers: float) -> list[float]:
        """Rank 0's numbers, on every worker."""
        values = torch.tensor(numbers, dtype=torch.float64)
        if self._group is not None:
            dist.broadcast(values, 0, self._group)
        return values.tolist()

    def run_on_all(self, step: Callable[[], T]) -> T:
        """Runs `step` on every worker; returns its result on this one if it succeeded on all.

        If it failed on any, all workers raise, instead of waiting for that one in a collective call: the same one-line
        message, as a TrainingError, or as an OSError if a retry may succeed.
        """
        result: list[T] = []
        failure, cause = None, None
        try:
            result.append(step())
        except Exception as error:  # of any kind: the other workers wait
            failure, cause = Failure(what_failed(error), socket.gethostname(), isinstance(error, PERMANENT)), error
        outcomes = self.gather(failure)
        failures = {rank: found for rank, found in enumerate(outcomes) if found is not None}
        if not failures:
            return result[0]
        rank, worst = min(failures.items(), key=lambda item: (not item[1].permanent, item[0]))
        where = f" (worker {rank}, on {worst.host})" if len(failures) < len(outcomes) else ""
        raise (TrainingError if worst.permanent else OSError)(worst.text + where) from cause
