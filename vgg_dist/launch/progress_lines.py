"""The lines in which a training's progress is shown, each at most 79 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from vgg_dist.launch.time_left import TimeLeft, duration
from vgg_dist.metric_names import Record
from vgg_dist.ray_cluster.job_lines import Line

WIDTH = 79  # a line of 80 columns wraps on some terminals of 80
GAP = "  "


class ProgressLines:
    """Turns what the workers of one training report into lines. `prefix` stands in front of each."""

    def __init__(self, epochs: int, max_steps: int | None, prefix: str = "") -> None:
        self.epochs = epochs
        self.prefix = prefix
        self.time_left = TimeLeft(epochs, max_steps)

    def of_note(self, note: str) -> list[Line]:
        """A note of the workers, over several lines where it is long."""
        return [Line(self.prefix + text) for text in wrapped(note, WIDTH - len(self.prefix))]

    def of_record(self, record: Record) -> list[Line]:
        """The metrics of a validation, or of the steps since the last record."""
        values, step = record["metrics"], record["step"]
        if "val/loss" in values:
            self.time_left.interrupted()
            return [Line(self._validation(step, values))]
        left = self.time_left.after(step, values["epoch"], record["time"])
        lines = [Line(self._training(step, values, left), is_live=True)]
        if "loader_images_per_second" in values:
            lines += [Line(self.prefix + text) for text in describe_limit(values)]
        return lines

    def _validation(self, step: int, values: Mapping[str, float]) -> str:
        fields = [f"step {step:>6}", f"validation: loss {values['val/loss']:.3f}"]
        fields += [f"top-1 error {values['val/top1_error']:.2f} %"]
        if "val/top5_error" in values:  # not for five classes or fewer
            fields += [f"top-5 error {values['val/top5_error']:.2f} %"]
        return fitted(self.prefix, fields)

    def _training(self, step: int, values: Mapping[str, float], left: float | None) -> str:
        rate = values["images_per_second"]
        fields = [
            f"step {step:>6}",
            f"epoch {values['epoch']:{len(str(self.epochs)) + 3}.2f}/{self.epochs}",
            f"loss {values['train/loss']:.3f}",
            f"{rate:.0f} images/s" if rate >= 100 else f"{rate:.1f} images/s",
            f"lr {values['lr']:.2g}",
        ]
        if left is not None:
            fields.append(f"{duration(left)} left")
        return fitted(self.prefix, fields, drop=("lr ", "step "))


def fitted(prefix: str, fields: Sequence[str], drop: Sequence[str] = ()) -> str:
    """The fields in one line, without those that begin as `drop` says, one by one, where they do not fit."""
    fields = list(fields)
    for begin in drop:
        if len(prefix + GAP.join(fields)) > WIDTH:
            fields = [field for field in fields if not field.startswith(begin)]
    return prefix + GAP.join(fields)


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Lines of at most this width, except for words that are longer, such as paths."""
    return textwrap.wrap(text, max(width, 20), subsequent_indent=GAP, break_long_words=False, break_on_hyphens=False)


def describe_limit(values: Mapping[str, float]) -> list[str]:
    """Whether the loader or the step limits a training, from how fast each of them is alone; and what helps."""
    loader, step = values["loader_images_per_second"], values["step_images_per_second"]
    speeds = f"loader {loader:.0f} images/s, step {step:.0f} images/s"
    if loader >= step:
        return [f"{speeds}: the step limits"]
    return [f"{speeds}: the loader limits", "  more CPUs per worker, shards, or nearer storage make it faster"]
