"""What the workers of a training tell each other besides gradients: how their set-up went, whether to report now.

It goes over gloo, on a GPU cluster too. The group that carries the gradients has a short time-out, by which a hang is found;
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

# How long workers wait for each other's gradients: after that something hangs, and the run is restarted. In a first step,
# one may have to compile what the others have in a cache.
GRADIENTS_WAIT_S = 900
CONNECTING = timedelta(minutes=5)
PATIENCE = timedelta(days=7)  # once connected: a worker that dies ends the wait at once, its connections break

# What another attempt does not mend. A network or a storage that is away for a while raises other kinds.
INCURABLE = (
    ValueError, TrainingError, ImportError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError,
)  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """Why a worker could not take a step of the set-up."""

    text: str
    host: str
    incurable: bool


class Exchange:
    """A group of all workers for small messages; of this process alone where there is no process group."""

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        if dist.is_initialized():
            group = dist.new_group(backend="gloo", timeout=CONNECTING)
            assert isinstance(group, dist.ProcessGroup)  # every worker is in it
            # Earlier versions of torch have no public name for it.
            set_timeout = getattr(dist, "set_timeout", None) or distributed_c10d._set_pg_timeout
            set_timeout(PATIENCE, group)
            self._group = group

    def gather(self, value: T) -> list[T]:
        """Every worker's value, by rank."""
        if self._group is None:
            return [value]
        values: list[T] = [value] * dist.get_world_size()
        dist.all_gather_object(values, value, self._group)
        return values

    def of_first(self, *numbers: float) -> list[float]:
        """Rank 0's numbers."""
        values = torch.tensor(numbers, dtype=torch.float64)
        if self._group is not None:
            dist.broadcast(values, 0, self._group)
        return values.tolist()

    def together(self, step: Callable[[], T]) -> T:
        """What `step` returns on this worker, once it went well on all of them.

        A mistake may show on one node only; all workers raise then, rather than wait for it in a collective. The message is
        one line, the same on all: of a TrainingError, or of an OSError where another attempt may go well.
        """
        result: list[T] = []
        failure, cause = None, None
        try:
            result.append(step())
        except Exception as error:  # of whatever kind: the others wait
            failure, cause = Failure(what_failed(error), socket.gethostname(), isinstance(error, INCURABLE)), error
        outcomes = self.gather(failure)
        failures = {rank: found for rank, found in enumerate(outcomes) if found is not None}
        if not failures:
            return result[0]
        rank, worst = min(failures.items(), key=lambda item: (not item[1].incurable, item[0]))
        where = f" (worker {rank}, on {worst.host})" if len(failures) < len(outcomes) else ""
        raise (TrainingError if worst.incurable else OSError)(worst.text + where) from cause
