"""Chooses a checkpoint of a run: the last one, the best by validation error, or that of a step; and describes the choice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.paths import absolute, last_part, parent
from vgg_dist.config.base import BEST, LAST
from vgg_dist.metric_names import describe_errors, validation_errors
from vgg_dist.run_folder.best import Validated, best_copies, best_of, read_since, validated_checkpoints
from vgg_dist.run_folder.checkpoints import whole_checkpoints
from vgg_dist.run_folder.digests import DamagedCheckpoint, check_files
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import CONFIG, MODEL, is_checkpoint_name, step_of
from vgg_dist.storage import list_folder, local_folder, open_storage

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A checkpoint in a local folder, and how it was chosen."""

    folder: Path
    step: int | None
    """None if its folder is not named as a checkpoint."""
    which: str = ""
    """LAST or BEST of its run; empty if the checkpoint itself or its step was given."""
    metrics: dict[str, float] | None = None
    """Of the validation at its step; None if there was none."""
    since: int | None = None
    """The step before which validations are unknown; None if all are known."""
    better: Validated | None = None
    """The best of its run, if the last was asked for and its errors differ."""

    def __str__(self) -> str:
        """Such as "step 189, the last checkpoint (validation top-1 error 26.70 %)"."""
        words = [] if self.step is None else [f"step {self.step}"]
        if self.which == LAST:
            words.append("the last checkpoint")
        if self.which == BEST:
            words.append("the best checkpoint" + ("" if self.since is None else f" of those from step {self.since} on"))
        errors = f" (validation {describe_errors(self.metrics)})" if self.metrics else ""
        return ", ".join(words) + errors

    @property
    def label(self) -> str:
        """Distinguishes it from others of its run, such as "best, step 126"; empty for the last one."""
        words = [self.which] * (self.which == BEST) + [f"step {self.step}"] * (self.step is not None)
        return "" if self.which == LAST else ", ".join(words)

    @property
    def hint(self) -> str:
        """A sentence if the run has a better checkpoint; else empty."""
        if self.better is None:
            return ""
        return f"the best is of step {self.better.step} (validation {describe_errors(self.better.metrics)})"


@contextmanager
def local_checkpoint(location: str, flag: str, which: str = LAST) -> Iterator[ChosenCheckpoint]:
    """The checkpoint at `location`, a run's folder or a checkpoint's, path or URL; RUN/best is the best of the run.

    `which`: LAST, BEST or a step of a run. A damaged checkpoint is skipped with a warning, in favour of the one before it or
    the next best. ValueError, one line that begins with `flag`, if there is none.
    """
    found = find_checkpoints(location, flag, which)
    location = absolute(location)
    *others, (last, choice) = found
    for (place, first), (after, _) in zip(others, found[1:], strict=True):
        with local_folder(place) as folder:
            try:
                check_files(folder, [CONFIG, MODEL])
            except DamagedCheckpoint as error:
                _logger.warning(
                    "%s %s: %s; %s is used instead", flag, location, str(error).replace(str(folder), place), after
                )
                continue
            yield replace(first, folder=folder)
            return
    with local_folder(last) as folder:
        yield replace(choice, folder=folder)


Found = list[tuple[str, ChosenCheckpoint]]
"""(URL, checkpoint): the one asked for, then those to fall back on if it is damaged."""


def find_checkpoints(location: str, flag: str, which: str = LAST) -> Found:
    """The checkpoints that `local_checkpoint` would try. Only their records are read."""
    location = absolute(location)
    try:
        return _find(location, flag, which)
    except FileNotFoundError:
        raise ValueError(f"{flag} {location}: does not exist; expected a run's folder or a checkpoint") from None
    except OSError as error:
        raise ValueError(f"{flag} {location}: cannot be read: {error}") from error


def _find(location: str, flag: str, which: str) -> Found:
    """ValueError, one line, if there is no such checkpoint; OSError if the storage does not answer."""
    name = last_part(location)
    if name == BEST and whole_checkpoints(*open_storage(parent(location))):
        location, which = parent(location), BEST if which == LAST else which
    elif CONFIG in list_folder(location):
        step = step_of(name) if is_checkpoint_name(name) else None
        if which.isdecimal() and step not in (None, int(which)):
            raise ValueError(f"{flag} {location}: is the checkpoint of step {step}, not {which}; give the run's folder")
        return [(location, ChosenCheckpoint(Path(), step))]
    list_folder(location)  # FileNotFoundError if there is no such run
    run = RunFolder(location)
    copies, known = best_copies(run), validated_checkpoints(run)
    last = [run.checkpoint(name) for name in whole_checkpoints(run.filesystem, run.path)]
    paths = _paths(f"{flag} {location}", which, last, known, copies)
    best, since = best_of(copies), read_since(run)
    metrics = {each.path: each.metrics for each in known}

    def choice(path: str) -> ChosenCheckpoint:
        step = _step(path)
        kind = which if which in (LAST, BEST) and step == _step(paths[0]) else ""
        own = validation_errors(metrics.get(path, {}))
        better = best if which == LAST and best is not None and validation_errors(best.metrics) != own else None
        return ChosenCheckpoint(Path(), step, kind, metrics.get(path), since, better)

    return [(run.url_of(path), choice(path)) for path in paths]


def _paths(run: str, which: str, last: list[str], known: list[Validated], copies: list[Validated]) -> list[str]:
    """The paths of a run's checkpoints that match `which`, the one asked for first.

    `last`: paths of those in the run's folder; `copies`: those in best/; `known`: all that were validated.

    ValueError, one line that begins with `run`, if there is none.
    """
    if which == LAST:
        if not last:
            there = f"; its best is there: --checkpoint {BEST}" if copies else ""
            raise ValueError(f"{run}: no checkpoint; neither it nor a folder in it has a {CONFIG}{there}")
        return last[::-1]
    if which == BEST:
        if not copies:
            why = "it was not validated yet, or an earlier version trained it" if last else "it has no checkpoint at all"
            raise ValueError(f"{run}: has no best checkpoint ({why}); allowed: --checkpoint {LAST}, or a step")
        # A checkpoint in the run's folder but not in best/ may be from before a restart that went back further (see `best`).
        ours = [(copy.rank, copy.metrics) for copy in copies]
        return [each.path for each in sorted(known, key=lambda each: ((each.rank, each.metrics) not in ours, each.rank))]
    every = last[::-1] + [copy.path for copy in copies]
    paths = [path for path in every if _step(path) == int(which)]
    if not paths:
        steps = sorted({_step(path) for path in every})
        raise ValueError(
            f"{run}: has no checkpoint of step {which}; there are those of {', '.join(map(str, steps)) or 'none'}"
        )
    return paths


def _step(path: str) -> int:
    return step_of(path.rpartition("/")[2])
