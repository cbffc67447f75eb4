"""Which settings differ between trainings, and the errors, speed and ending of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vgg_dist.metric_names import validation_errors
from vgg_dist.reporting.text import printed
from vgg_dist.tracking import RunRecord

IGNORED = {
    "name", "storage_path", "tracking_uri", "experiment", "val_scale", "init_from", "num_workers", "loader_threads",
    "log_every", "checkpoint_every", "max_failures", "max_bad_images", "micro_batch", "quarantine", "data",
}  # fmt: skip
"""Settings that say where and how a training ran, or follow from others; runs on other data have another table."""
FIRST = "arch", "batch_norm", "head", "width", "train_scale", "lr", "weight_decay", "dropout", "init", "seed"
"""The order of the columns; other settings come after these."""
OUTCOMES = (
    "epochs", "last top-1", "last top-5", "last loss", "best top-1", "best top-5", "best epoch", "images/s", "time", "ended",
)  # fmt: skip


class Validation(NamedTuple):
    """Of the net after an epoch: errors in percent; no top-5 error for five classes or fewer."""

    top1: float
    top5: float | None
    loss: float
    epoch: float


_WORDS = {"top1_error": "top-1 error", "top5_error": "top-5 error", "loss": "loss"}


@dataclass(frozen=True)
class Row:
    """A training: its value of each setting that differs, and its outcome."""

    run: RunRecord
    settings: tuple[str, ...]
    epochs: float | None
    """Trained so far."""
    last: Validation | None
    """Of the last net, which vgg_dist.evaluate takes by default."""
    best: Validation | None
    """Of the best net, by the lowest validation error: what vgg_dist.evaluate takes with --checkpoint best."""

    @property
    def outcomes(self) -> tuple[str, ...]:
        """As text, under OUTCOMES."""
        run, rate = self.run, self.run.metrics.get("images_per_second")
        last, best = self.last, self.best
        return (
            self._epochs(),
            _cell(last and last.top1, ".2f"),
            _cell(last and last.top5, ".2f"),
            _cell(last and last.loss, ".3f"),
            _cell(best and best.top1, ".2f"),
            _cell(best and best.top5, ".2f"),
            _cell(best and best.epoch, ".3g"),
            _cell(rate, ".4g"),
            "-" if run.seconds is None else _time(run.seconds),
            run.note or run.status.lower(),
        )

    def _epochs(self) -> str:
        """Such as 74, or 12.5 of 74 where the training has not come to its end."""
        trained, planned = _cell(self.epochs, ".3g"), self.run.settings.get("epochs")
        if self.epochs is None or planned is None or _short(planned) == trained:
            return trained
        return f"{trained} of {planned}"


@dataclass(frozen=True)
class Comparison:
    """Trainings side by side, on the same data if the errors are to mean anything.

    The lowest top-1 error of the best nets (or another metric) comes first, those without a validation last.
    """

    data: str
    """Where the images are, as of --data."""
    settings: tuple[str, ...]
    """Names of the settings that differ."""
    rows: tuple[Row, ...]
    common: dict[str, str]
    """The settings that all have in common."""
    metric: str | None = None
    """See `compare`."""

    @property
    def criterion(self) -> str:
        """What the best net of a training has, in words."""
        if self.metric is not None:
            return f"the lowest {_WORDS[self.metric]}"
        return "the lowest top-5 error (top-1 error for five classes or fewer), which it takes with --checkpoint best"

    @property
    def order(self) -> str:
        """What the rows are sorted by, in words."""
        return f"the best net's {_WORDS[self.metric or 'top1_error']}"

    @property
    def headings(self) -> tuple[str, ...]:
        """The headings of the table's columns."""
        return ("run", *self.settings, *OUTCOMES)

    def cells(self) -> list[tuple[str, ...]]:
        """The table's rows."""
        return [(row.run.name, *row.settings, *row.outcomes) for row in self.rows]

    def to_text(self) -> str:
        """What the command prints."""
        headings = self.headings
        left = {0, len(headings) - 1, *(headings.index(name) for name in ("arch", "init", "head") if name in headings)}
        table = printed([heading.replace("_", "\n").replace(" ", "\n") for heading in headings], self.cells(), left)
        return f"{table}\nbest: of the net after the epoch with {self.criterion}"


def compare_by_data(runs: Sequence[RunRecord]) -> list[Comparison]:
    """Trainings side by side, apart from those on other data; the data with the most runs comes first."""
    by_data: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_data.setdefault(run.settings.get("data", "-"), []).append(run)
    return [compare(found) for found in sorted(by_data.values(), key=len, reverse=True)]


def compare(runs: Sequence[RunRecord], metric: str | None = None) -> Comparison:
    """Trainings side by side. `metric`: of a search, such as "top1_error"; nets and trainings are then ranked by it."""
    data = ", ".join(dict.fromkeys(run.settings.get("data", "-") for run in runs))
    values: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        if name not in IGNORED:
            values[name] = [run.settings.get(name, "-") for run in runs]
    differing = [name for name, found in values.items() if len(set(found)) > 1 and name != "epochs"]  # a column has them
    names = tuple(sorted(differing, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name)))
    rows = [_row(run, tuple(_short(run.settings.get(name, "-")) for name in names), metric) for run in runs]
    rows.sort(key=lambda row: _value(row.best, metric or "top1_error") if row.best else float("inf"))
    common = {name: found[0] for name, found in values.items() if len(set(found)) == 1}
    return Comparison(data, names, tuple(rows), common, metric)


def _row(run: RunRecord, settings: tuple[str, ...], metric: str | None) -> Row:
    top1, top5, loss = (run.validations.get(name, []) for name in ("val/top1_error", "val/top5_error", "val/loss"))
    found: list[Validation] = []
    if len(top1) == len(loss):
        fives = [error for _, error in top5] if len(top5) == len(top1) else [None] * len(top1)
        found = [Validation(one, five, each, epoch) for (epoch, one), five, (_, each) in zip(top1, fives, loss, strict=True)]
    best = min(found, key=lambda each: _rank(each) if metric is None else (_value(each, metric),), default=None)
    return Row(run, settings, run.metrics.get("epoch"), found[-1] if found else None, best)


def _rank(validation: Validation) -> tuple[float, ...]:
    errors = {"val/top1_error": validation.top1}
    if validation.top5 is not None:
        errors["val/top5_error"] = validation.top5
    return validation_errors(errors) or ()


def _value(validation: Validation, metric: str) -> float:
    """The value of a search's metric; the top-1 error where there is no top-5 error."""
    values = {"top1_error": validation.top1, "top5_error": validation.top5, "loss": validation.loss}
    value = values[metric]
    return validation.top1 if value is None else value


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _short(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:.4g}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
