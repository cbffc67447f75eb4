"""Which checkpoints a run may go on from: those in its folder, also what Ray Train has not heard of.

A checkpoint is reported to Ray Train once it is whole. A command that is killed in between leaves one that is whole and that
Ray Train's list lacks: the run goes on from that one, and reports it then, with what it and those like it have recorded.
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
    """A run's whole checkpoints by name, latest first, as all workers see them; `unreported` of them Ray Train lacks."""

    run: RunFolder
    names: list[str]
    unreported: int

    def folders(self) -> dict[str, SavedFolder]:
        """For `preparation.prepare`."""
        return {name: partial(local_files, self.run.filesystem, self.run.checkpoint(name)) for name in self.names}


@dataclass(frozen=True)
class ResumedFrom:
    """The one of the checkpoints that the run goes on from."""

    points: ResumePoints
    number: int

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.points.names[self.number]

    @property
    def path(self) -> str:
        """Where it is."""
        return self.points.run.checkpoint(self.name)

    @property
    def is_unreported(self) -> bool:
        """Whether Ray Train has not heard of it."""
        return self.number < self.points.unreported

    def unreported_records(self) -> list[Record]:
        """What the unreported checkpoints before it have recorded."""
        records: list[Record] = []
        for name in reversed(self.points.names[self.number + 1 : self.points.unreported]):
            with (
                suppress(DamagedCheckpoint, OSError),
                local_files(self.points.run.filesystem, self.points.run.checkpoint(name)) as folder,
            ):
                records += read_records(folder)
        return records


def find_resume_points(exchange: Exchange, run: RunFolder, reported: str | None) -> ResumePoints:
    """A collective call. `reported`: the path of the last checkpoint that Ray Train has in its list."""
    listed = exchange.gather(exchange.together(lambda: whole_checkpoints(run.filesystem, run.path)[::-1]))
    names = [name for name in listed[0] if all(name in theirs for theirs in listed)]  # a storage may show one more
    last = "" if reported is None else reported.rpartition("/")[2]
    if last and last not in names:  # whatever is wrong with it is told when it is read
        names = sorted([*names, last], reverse=True)
    return ResumePoints(run, names, sum(name > last for name in names))
