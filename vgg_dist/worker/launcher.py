"""What a worker needs of what started it: Ray Train (`worker.on_ray`), or the command itself (`launch.in_process`)."""

from __future__ import annotations

from typing import Any, Protocol

from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.training.parallelism import Worker
from vgg_dist.training.stopping import Messages


class Launcher(Protocol):
    """What started this worker."""

    @property
    def worker(self) -> Worker:
        """Its rank, and its device."""

    @property
    def report_every_s(self) -> float:
        """Seconds between reports of records; checkpoints are reported once they are written."""

    @property
    def run(self) -> RunFolder:
        """The run's folder."""

    @property
    def messages(self) -> Messages:
        """The messages between the processes of the command."""

    def last_reported(self) -> str | None:
        """The path of the last checkpoint that was reported before this start; None if that is not known."""

    def await_record(self) -> None:
        """Called before the first step: returns once reports can be taken. Raises where the training is not to begin."""

    def report(self, payload: dict[str, Any], checkpoint: str | None) -> None:
        """Takes a report, which all workers make at the same time; rank 0's may have the path of a checkpoint.

        Once a checkpoint is reported, older ones than the two that were reported last are removed.
        """
