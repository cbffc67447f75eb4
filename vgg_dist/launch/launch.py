"""One start of a training: its checks, its record in MLflow, the training itself, and its outcome.

Where the workers run is up to a `Launch`: on Ray (`driver`), or in the command's own process (`in_process`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from pipelines import signals
from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.errors import Interrupted
from vgg_dist.launch.follow import FROM_LAST, resumes
from vgg_dist.launch.run_record import keep_model, send_all_metrics, send_last_metrics
from vgg_dist.launch.terminal import say
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.outcome import Earlier, describe_outcome, read_best, write_outcome
from vgg_dist.run_folder.settings import keep_settings
from vgg_dist.tracking import TrackedRun, recorded, ui_hint


class Trained(NamedTuple):
    """What a training that came to its end leaves."""

    value: dict[str, Any]
    """What `worker.process.run_worker` returned: metrics and step."""
    checkpoint: str
    """The path of the last checkpoint, in the filesystem of the run's folder."""


class Launch(ABC):
    """One start of a training, in four steps: `connect`, `open_record`, `fit`, `conclude`."""

    config: TrainSettings
    """The settings; once connected, with the number of workers."""
    is_trial = False
    """Whether it belongs to a search: its net is not kept in MLflow."""

    def __init__(self, config: TrainSettings) -> None:
        self.config = config

    def say(self, text: str) -> None:
        """Prints lines in the command."""
        if text:
            say(f"vgg_dist.train: {masked(text)}")

    @abstractmethod
    def connect(self) -> None:
        """Finds room for the workers. Interrupted where the command was told to stop."""

    @abstractmethod
    def open_record(self) -> TrackedRun:
        """Opens the MLflow run. TrackingError where that is refused."""

    @abstractmethod
    def fit(self, run: TrackedRun) -> Trained:
        """Trains, and meanwhile shows progress. TrainingError for a failure, Interrupted for a stop."""

    def send_last_metrics(self, run: TrackedRun, error: BaseException) -> None:
        """Sends what MLflow has not been told of a training that `error` ends."""
        send_last_metrics(run, error)

    def is_paused(self, metrics: dict[str, float]) -> bool:
        """Whether a training with these last metrics has epochs left that a later start trains."""
        return False

    def conclude(self, run: TrackedRun, trained: Trained) -> dict[str, Any]:
        """Completes the MLflow run of a training that came to its end. Returns what `outcome.json` is to hold."""
        outcome = trained.value | {"checkpoint": trained.checkpoint} | read_best(RunFolder(run.folder))
        try:
            with signals.raising():
                send_all_metrics(run)
                if not self.is_trial:
                    keep_model(run, self.config, trained.checkpoint, outcome["step"])
        except signals.Stopped as stopped:
            how = f" after its last step; {resumes(self.config.name, 'finishes')}"
            raise Interrupted(signals.name_of(stopped.signum), how) from None
        return outcome


def run_launch(launch: Launch, full_config: TrainSettings, earlier: Earlier | None) -> dict[str, float]:
    """Runs a training to its end; returns the last validation metrics, and the epoch.

    A finished run is not run again. `full_config`: its settings, of which `launch.config` may train the first epochs only.
    `earlier`: what `check_training` has returned. ValueError for settings or data that do not work; TrainingError for a run
    that failed.
    """
    if earlier is not None:
        launch.say(_of_earlier(launch.config, earlier))
        if earlier.outcome is not None and earlier.is_all(launch.config):
            return earlier.outcome["metrics"]
    launch.connect()
    with signals.holding():  # from here on there is something to end in order
        run = launch.open_record()
        keep_settings(launch.config.folder, full_config)  # from here on the run can be resumed
        signals.end_with(f"; {resumes(launch.config.name)}{FROM_LAST}")
        with recorded(run, quick=False) as ending:
            try:
                outcome = launch.conclude(run, launch.fit(run))
            except BaseException as error:
                launch.send_last_metrics(run, error)
                raise
            if launch.is_paused(outcome["metrics"]):  # it may never be resumed
                ending.status, ending.note = "KILLED", f"stopped early at epoch {launch.config.epochs}"
        write_outcome(launch.config, outcome)
        launch.say(f"run {launch.config.name} finished{describe_outcome(outcome)}\n{ui_hint(run)}")
    return outcome["metrics"]


def _of_earlier(config: TrainSettings, earlier: Earlier) -> str:
    """Lines on a run that was begun before: finished, or resumed with other settings; empty if there is nothing to say."""
    changes = earlier.changes(config)
    if earlier.outcome is None or not earlier.is_all(config):
        return f"run {config.name} was begun with {changes}; it resumes with the new settings" if changes else ""
    finished = f"run {config.name} was finished before{describe_outcome(earlier.outcome)}"
    if changes:
        finished += f"\nthese numbers are of {changes}"
        finished += "\nanother --name trains with the new settings; more --epochs, or --max-steps, trains this run further"
    return finished
