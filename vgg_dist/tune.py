"""Search learning rate, train scale and other settings of a training with Ray Tune (paper, sections 3.1 and 4.1).

    python -m vgg_dist.tune --arch A --data /data/imagenet --epochs 9 --trials 16
    python -m vgg_dist.tune --arch D --data DIR --search grid --search-lr 1e-3 1e-2 1e-1 --search-train-scale 256 384 256-512
    ray job submit -- python -m vgg_dist.tune --data s3://bucket/imagenet --storage-path s3://bucket/runs --num-workers 4

Trials are runs in --storage-path/--name, nested in MLflow under one run; the same command again goes on with a search that
was interrupted. At the end: a table, pictures, and the vgg_dist.train command of the best.
"""

from __future__ import annotations

import dataclasses
import os

import tyro

from pipelines.command import fail, one_line_errors
from pipelines.secrets import masked
from pipelines.store import open_splits
from vgg_dist.config import TrainConfig, TrainingError, TuneConfig
from vgg_dist.config.suggestions import suggestions


def main() -> None:
    """The command line."""
    with one_line_errors("vgg_dist.tune", suggestions(TuneConfig)):
        config = tyro.cli(TuneConfig, prog="python -m vgg_dist.tune", description=__doc__)
    try:
        search(config)
    except (ValueError, TrainingError) as error:
        fail("vgg_dist.tune", error)


def search(config: TuneConfig) -> TrainConfig:
    """Runs a search to its end and returns the best trial's training.

    ValueError for a setting or data that cannot be, before anything is started; TrainingError for a search without a result.
    """
    config = config.resolved()
    if "RAY_ADDRESS" not in os.environ:  # on a cluster the data may be where the workers are, and only there
        classes = len(open_splits(config.data)[0].class_names)
        if config.metric == "top5_error" and classes <= 5:
            raise ValueError(f"--metric top5_error: is 0 for every net, as the data has {classes} classes; use top1_error")
    # In here, so that --help and mistakes do not wait for the import of torch and Ray.
    from vgg_dist.comparison import compare, draw_curves, draw_parallel, encode, to_html
    from vgg_dist.search import run_search
    from vgg_dist.storage import beside, replace_file
    from vgg_dist.tracking import log_report, read_runs, ui_hint

    found = run_search(config)
    best = found.trials[0]
    comparison = compare(read_runs(found.run.tracking_uri, config.experiment, found.run), config.metric)
    page = to_html(comparison, f"Search {config.name}")
    replace_file(beside(config.folder, "search.html"), page.encode())
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
        f"train it: {command}\nreport: {masked(beside(config.folder, 'search.html'))}\n"
        f"{ui_hint(found.run, 'artifacts/search.html')}"
    )
    return best.config


if __name__ == "__main__":
    main()
