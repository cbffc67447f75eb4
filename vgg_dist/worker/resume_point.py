"""The checkpoints that a run may resume from: all in its folder, including those that Ray Train does not know.

A checkpoint is reported to Ray Train once it is completely written. A command that is killed in between leaves a checkpoint
that is whole but not in Ray Train's list. The run resumes from it and reports it then, with the records in it and in other
unreported ones.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from vgg_dist.metric_names import Record
from vgg_dist.run_folder.checkpoints import whole_checkpoints
from vgg_dist.run_folder.digests import DamagedCheckpoint
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.storage import local_files
from vgg_dist.weights.checkpoint import read_records
from vgg_dist.worker.exchange import Exchange
from vgg_dist.worker.setup import SavedFolder


@dataclass(frozen=True)
class ResumePoints:
    """The names of a run's whole checkpoints, latest first, that all workers see; Ray Train lacks the first `unreported`."""

    run: RunFolder
    names: list[str]
    unreported: int

    def folders(self) -> dict[str, SavedFolder]:
        """The checkpoints by name, for `setup.prepare`."""
        return {name: partial(local_files, self.run.filesystem, self.run.checkpoint(name)) for name in self.names}


@dataclass(frozen=True)
class ResumedFrom:
    """The checkpoint that the run resumes from: the one at `number` in `points.names`."""

    points: ResumePoints
    number: int

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.points.names[self.number]

    @property
    def path(self) -> str:
        """The checkpoint's path in the run's filesystem."""
        return self.points.run.checkpoint(self.name)

    @property
    def is_unreported(self) -> bool:
        """Whether Ray Train's list lacks it."""
        return self.number < self.points.unreported

    def unreported(self) -> list[str]:
        """The paths of the checkpoints to report at the start, in that order; none if this one was reported.

        All that Ray Train's list lacks, so that none is left in the folder for good: first damaged ones, which go first, and
        this one last.
        """
        if not self.is_unreported:
            return []
        names = self.points.names[: self.points.unreported]
        newer, older = names[: self.number], names[self.number + 1 :]
        return [self.points.run.checkpoint(name) for name in [*reversed(newer), *reversed(older), self.name]]

    def unreported_records(self) -> list[Record]:
        """The records in the unreported checkpoints before it, in order; damaged ones are skipped."""
        records: list[Record] = []
        for name in reversed(self.points.names[self.number + 1 : self.points.unreported]):
            with (
                suppress(DamagedCheckpoint, OSError),
                local_files(self.points.run.filesystem, self.points.run.checkpoint(name)) as folder,
            ):
                records += read_records(folder)
        return records


def find_resume_points(exchange: Exchange, run: RunFolder, reported: str | None) -> ResumePoints:
    """A collective call. `reported`: the path of the last checkpoint in Ray Train's list."""
    listed = exchange.gather(exchange.run_on_all(lambda: whole_checkpoints(run.filesystem, run.path)[::-1]))
    names = [name for name in listed[0] if all(name in theirs for theirs in listed)]  # storages may list more to one worker
    last = "" if reported is None else reported.rpartition("/")[2]
    if last and last not in names:  # it is damaged or missing: reading it raises the error
        names = sorted([*names, last], reverse=True)
    return ResumePoints(run, names, sum(name > last for name in names))
