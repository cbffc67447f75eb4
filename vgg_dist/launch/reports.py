"""What is done with what the workers of a training report: lines for people, metrics for MLflow and Prometheus.

On Ray this takes place on Ray Train's controller (`controller`), else in the command (`in_process`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.secrets import masked
from vgg_dist.config import TrainSettings
from vgg_dist.launch.best_so_far import BestSoFar
from vgg_dist.launch.progress_lines import ProgressLines
from vgg_dist.ray_cluster.job_lines import Line, LineSender
from vgg_dist.tracking import TrackedRun, Tracker

if TYPE_CHECKING:
    from vgg_dist.launch.prometheus import Gauges

FLUSH_WAIT_S = 10.0  # for a trial's metrics to reach MLflow: its search may end it after any validation
SERVER_WAIT_S = 30.0  # how long the end of a run waits for a tracking server that does not answer
LINES_WAIT_S = 2.0  # for the last lines to be sent


class Reports:
    """Passes a training's reports on to the command's terminal, MLflow and Prometheus."""

    def __init__(
        self,
        run: TrackedRun,
        config: TrainSettings,
        lines: LineSender,
        gauges: Gauges | None = None,
        prefix: str = "",
        is_trial: bool = False,
    ) -> None:
        """`prefix`: in front of each line. A trial (`is_trial`) shows its failures only; its search shows the rest."""
        self.config = config
        self.lines = lines
        self.gauges = gauges
        self.prefix = prefix
        self.is_trial = is_trial
        self.tracker = Tracker(run)
        self.best = BestSoFar(run.folder)
        self.progress = ProgressLines(config.epochs, config.max_steps, prefix)

    def take(self, metrics: list[dict[str, Any]], has_checkpoint: bool) -> None:
        """Takes the dictionaries that all workers reported, by rank.

        Rank 0's has notes, records, and `earlier`: records that a checkpoint kept for MLflow. Each has system metrics of
        its node.
        """
        first = metrics[0]
        if not self.is_trial:
            notes = [line for note in first.get("notes", []) for line in self.progress.of_note(note)]
            self.lines.send(notes + [line for record in first["records"] for line in self.progress.of_record(record)])
        self.tracker.log(self.best.added_to(first.get("earlier", []) + first["records"]))
        if self.gauges is not None:
            self.gauges.take(first["records"])
        for of_worker in metrics:
            if of_worker["system"]:
                self.tracker.log_system(of_worker["system"])
        if self.is_trial and any("val/loss" in record["metrics"] for record in first["records"]):
            self.tracker.flush(FLUSH_WAIT_S)
        if has_checkpoint:
            self.tracker.persist()
        if first["done"]:
            self.lines.flush(LINES_WAIT_S)
            self.tracker.close(SERVER_WAIT_S)

    def tell(self, texts: Sequence[str]) -> None:
        """Shows lines on workers that failed, without the secrets in them."""
        self.lines.send([Line(self.prefix + masked(text)) for text in texts])
        self.lines.flush(LINES_WAIT_S)
