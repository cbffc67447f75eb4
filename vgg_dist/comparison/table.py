"""Which settings differ between trainings, and how each of them fared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vgg_dist.text_tables import aligned
from vgg_dist.tracking import RunRecord

IGNORED = {
    "name", "storage_path", "tracking_uri", "experiment", "val_scale", "init_from", "num_workers", "loader_threads",
    "log_every", "checkpoint_every", "max_failures", "max_bad_images", "micro_batch", "quarantine",
}  # fmt: skip
"""Settings that say where and how a training ran, or follow from others."""
FIRST = "arch", "batch_norm", "head", "train_scale", "lr", "weight_decay", "dropout", "init", "seed"
"""The order of the columns; other settings come after these."""
OUTCOMES = "epochs", "top-1 error", "top-5 error", "loss", "images/s", "time", "ended"


@dataclass(frozen=True)
class Row:
    """A training: the value of each setting that differs, and what came of it."""

    run: RunRecord
    settings: tuple[str, ...]
    epochs: float | None
    """Trained so far."""
    errors: tuple[float, float | None, float] | None
    """Top-1 error, top-5 error (percent; None for five classes or fewer) and loss of the validation with the lowest top-1
    error."""

    @property
    def outcomes(self) -> tuple[str, ...]:
        """As text, under OUTCOMES."""
        run, rate = self.run, self.run.metrics.get("images_per_second")
        top1, top5, loss = self.errors or (None, None, None)
        return (
            "-" if self.epochs is None else f"{self.epochs:.3g}",
            "-" if top1 is None else f"{top1:.2f}",
            "-" if top5 is None else f"{top5:.2f}",
            "-" if loss is None else f"{loss:.3f}",
            "-" if rate is None else f"{rate:.4g}",
            "-" if run.seconds is None else _time(run.seconds),
            run.note or run.status.lower(),
        )


@dataclass(frozen=True)
class Comparison:
    """Trainings, the lowest top-1 error first, those without a validation last."""

    settings: tuple[str, ...]
    """Names of the settings that differ."""
    rows: tuple[Row, ...]
    common: dict[str, str]
    """The settings that all have in common."""

    @property
    def headings(self) -> tuple[str, ...]:
        """Of the table's columns."""
        return ("run", *self.settings, *OUTCOMES)

    def cells(self) -> list[tuple[str, ...]]:
        """The table's rows."""
        return [(row.run.name, *row.settings, *row.outcomes) for row in self.rows]

    def to_text(self) -> str:
        """For a terminal."""
        headings = self.headings
        left = {0, len(headings) - 1, *(headings.index(name) for name in ("arch", "init", "head") if name in headings)}
        return aligned([heading.replace("_", "\n").replace(" ", "\n") for heading in headings], self.cells(), left)


def compare(runs: Sequence[RunRecord]) -> Comparison:
    """Puts trainings side by side."""
    values: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        if name not in IGNORED:
            values[name] = [run.settings.get(name, "-") for run in runs]
    differing = [name for name, found in values.items() if len(set(found)) > 1]
    names = tuple(sorted(differing, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name)))
    rows = [_row(run, tuple(_short(run.settings.get(name, "-")) for name in names)) for run in runs]
    rows.sort(key=lambda row: row.errors[0] if row.errors else float("inf"))
    return Comparison(names, tuple(rows), {name: found[0] for name, found in values.items() if len(set(found)) == 1})


def _row(run: RunRecord, settings: tuple[str, ...]) -> Row:
    top1, top5, loss = (run.validations.get(name, []) for name in ("val/top1_error", "val/top5_error", "val/loss"))
    errors = None
    if top1 and len(top1) == len(loss):
        best = min(range(len(top1)), key=lambda k: top1[k][1])
        errors = top1[best][1], top5[best][1] if len(top5) == len(top1) else None, loss[best][1]
    return Row(run, settings, run.metrics.get("epoch"), errors)


def _short(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:.4g}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
