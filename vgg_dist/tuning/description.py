"""A search in one line, printed before it starts: how many trials, of what, and which of them are stopped early."""

from __future__ import annotations

from pipelines.secrets import masked
from vgg_dist.config import Choices, Range, TuneConfig, flag


def describe(config: TuneConfig) -> str:
    """Trials, the values that are searched, epochs, and early stopping."""
    space = config.space()
    of = ", ".join(f"{flag(f'search_{field}')} {_values(values)}" for field, values in space.items())
    kind = {"grid": "all combinations", "random": "drawn", "bayesian": "chosen by Optuna"}[config.search]
    stopping = {
        "asha": f"; only the best quarter is trained on after epoch {config.grace_epochs}, {4 * config.grace_epochs}, ...",
        "median": f"; those worse than the median are stopped, from epoch {config.grace_epochs} on",
        "none": "",
    }[config.early_stopping]
    if config.epochs <= config.grace_epochs:
        stopping = ""
    return (
        f"search {config.name}: {config.num_trials()} trials of {config.arch} on {masked(config.data)} ({kind}: {of});"
        f" each trains {config.epochs} epoch{'s' * (config.epochs > 1)} at most{stopping}"
    )


def _values(values: Range | Choices) -> str:
    if isinstance(values, Range):
        return f"from {values.low:g} to {values.high:g}"
    return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values.values)
