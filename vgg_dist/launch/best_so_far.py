"""Adds the errors of the best net so far to each validation, as `best/...`, so that MLflow shows both."""

from __future__ import annotations

from collections.abc import Iterable

from vgg_dist.metric_names import BEST, VAL, VAL_BAD_IMAGES, Record, validation_errors
from vgg_dist.run_folder.best import best_copies, best_of
from vgg_dist.run_folder.folder import RunFolder


class BestSoFar:
    """The best validation of one run, in the process that receives its records."""

    def __init__(self, run_folder: str) -> None:
        self.run_folder = run_folder
        self.metrics: dict[str, float] | None = None
        self.begun = False

    def added_to(self, records: Iterable[Record]) -> list[Record]:
        """The records, those of validations with `best/...` added. OSError if the run's folder cannot be read."""
        return [self._added_to(record) for record in records]

    def _added_to(self, record: Record) -> Record:
        errors = validation_errors(record["metrics"])
        if errors is None:
            return record
        if not self.begun:  # a resumed run has earlier validations
            earlier = best_of(each for each in best_copies(RunFolder(self.run_folder)) if each.step < record["step"])
            self.metrics, self.begun = None if earlier is None else earlier.metrics, True
        if self.metrics is None or errors < (validation_errors(self.metrics) or ()):
            names = [name for name in record["metrics"] if name.startswith(VAL) and name != VAL_BAD_IMAGES]
            self.metrics = {name: record["metrics"][name] for name in names}
        best = {name.replace(VAL, BEST): value for name, value in self.metrics.items()}
        return {**record, "metrics": record["metrics"] | best}
