"""Search learning rate, train scale and other settings of a training with Ray Tune (paper, sections 3.1 and 4.1).

    python -m vgg_dist.tune --arch A --data /data/imagenet --epochs 9 --trials 16
    python -m vgg_dist.tune --arch D --data DIR --search grid --search-lr 1e-3 1e-2 1e-1 --search-train-scale 256 384 256-512
    ray job submit -- python -m vgg_dist.tune --data s3://bucket/imagenet --storage-path s3://bucket/runs --num-workers 4

Trials are runs in --storage-path/--name, nested in MLflow under one run; the same command again, or --name alone, goes on
with a search that was interrupted. At the end: a table, pictures, and the vgg_dist.train command of the best.
"""

from __future__ import annotations

import dataclasses
import math

from pipelines.cli import fail, one_line_errors
from pipelines.secrets import masked
from pipelines.signals import end_with
from pipelines.stores.class_checks import tell_remarks
from pipelines.stores.open import open_splits
from vgg_dist.config import Choices, Range, TrainConfig, TuneConfig, flag
from vgg_dist.config.command_line import parse_resuming
from vgg_dist.config.suggestions import suggestions
from vgg_dist.errors import TrainingError
from vgg_dist.launch.ending import stoppable_runs
from vgg_dist.ray_cluster.address import cluster_named
from vgg_dist.run_folder.settings import SEARCH, find_settings


def main() -> None:
    """The command line."""
    with one_line_errors("vgg_dist.tune", suggestions(TuneConfig)):
        config = parse_resuming(TuneConfig, "python -m vgg_dist.tune", __doc__, find_settings(SEARCH))
    try:
        with stoppable_runs("vgg_dist.tune"):
            search(config)
    except (ValueError, TrainingError) as error:
        fail("vgg_dist.tune", error)


def search(config: TuneConfig) -> TrainConfig:
    """Runs a search to its end and returns the best trial's training.

    ValueError for a setting or data that cannot be, before anything is started; TrainingError for a search without a result.
    """
    config = config.resolved()
    end_with(f"; the same command with --name {config.name} resumes it")
    images = ""
    if not cluster_named():  # on a cluster the data may be where the workers are, and only there
        train, val = open_splits(config.data, quarantine=config.quarantine)
        tell_remarks(config.data, train=train, val=val)
        classes = len(train.class_names)
        steps = math.ceil(len(train) / config.global_batch)
        images = f"; an epoch has {steps} steps ({len(train)} images), and a validation of {len(val)} images"
        if config.metric == "top5_error" and classes <= 5:
            raise ValueError(f"--metric top5_error: is 0 for every net, as the data has {classes} classes; use top1_error")
    # In here, so that --help does not wait for these imports, nor a mistake for those of torch and Ray Tune.
    from vgg_dist.preflight import check_search

    check_search(config)
    print(f"vgg_dist.tune: {describe(config)}{images}", flush=True)
    from pipelines.paths import join
    from vgg_dist.reporting.comparison import compare, draw_curves, draw_parallel, encode, leaders, to_html
    from vgg_dist.storage import replace_file
    from vgg_dist.tracking import log_report, read_histories, read_runs, ui_hint
    from vgg_dist.tuning.search import run_search

    found = run_search(config)
    best = found.trials[0]
    comparison = compare(read_runs(found.run.tracking_uri, config.experiment, found.run), config.metric)
    histories = read_histories(found.run.tracking_uri, leaders([comparison]))
    page = to_html([comparison], f"Search {config.name}", histories)
    replace_file(join(config.folder, "search.html"), page.encode())
    pictures = {
        "learning_curves.png": encode(draw_curves(comparison), "png"),
        "parallel_coordinates.png": encode(draw_parallel(comparison), "png"),
    }
    # A run of its own: the trial's is at its end.
    again = dataclasses.replace(best.config, storage_path=config.storage_path, name=f"{config.name}-best")
    command = again.command_line()
    log_report(found.run, {f"best/{config.metric}": best.error}, {"search.html": page, **pictures, "best.txt": command})
    epochs = sum(trial.epochs for trial in found.trials)
    print(
        f"{comparison.to_text()}\n\n{len(found.trials)} trials, {epochs:g} epochs in all."
        f" Best: {best.config.name}, {config.metric} {best.error:.4g}\n"
        f"train it: {command}\nreport: {masked(join(config.folder, 'search.html'))}\n"
        f"{ui_hint(found.run, 'artifacts/search.html')}"
    )
    return best.config


def describe(config: TuneConfig) -> str:
    """What a search will do, for people."""
    space = config.space()
    of = ", ".join(f"{flag(f'search_{field}')} {_values(values)}" for field, values in space.items())
    kind = {"grid": "all combinations", "random": "drawn", "bayesian": "chosen by Optuna"}[config.search]
    stopping = {
        "asha": f"; only the best quarter goes on after epoch {config.grace_epochs}, {4 * config.grace_epochs}, ...",
        "median": f"; those above the median are stopped, from epoch {config.grace_epochs} on",
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


if __name__ == "__main__":
    main()
