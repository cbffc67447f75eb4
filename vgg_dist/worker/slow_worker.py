"""A line about a worker that the others wait for: its rank, its node, and how much longer its steps take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vgg_dist.metric_names import SLOWEST_WORKER, STEP_SECONDS_MEDIAN, STEP_SECONDS_SLOWEST

SLOW = 1.5  # times the median
LOGS = 3  # in a row, because a node may be busy for a moment


class SlowWorker:
    """Looks at the metrics of each log."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """`hosts`: of each worker, by rank."""
        self.hosts = hosts
        self._rank, self._logs = -1, 0

    def note(self, metrics: Mapping[str, float]) -> str | None:
        """A line, when a worker has been slow in several logs in a row, and again only after it was not."""
        if SLOWEST_WORKER not in metrics:
            return None
        rank, slowest, median = int(metrics[SLOWEST_WORKER]), metrics[STEP_SECONDS_SLOWEST], metrics[STEP_SECONDS_MEDIAN]
        if slowest < SLOW * median:
            rank = -1
        self._rank, self._logs = rank, self._logs + 1 if rank == self._rank else 1
        if rank < 0 or self._logs != LOGS:
            return None
        return (
            f"worker {rank}, on {self.hosts[rank]}, slows the others down: it computes and reads for {slowest:.2f} s in each"
            f" step, the median worker for {median:.2f} s"
        )
