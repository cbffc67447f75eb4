"""Search learning rate, train scale and other settings of a training with Ray Tune (paper, sections 3.1 and 4.1).

    python -m vgg_dist.tune --arch A --data /data/imagenet --epochs 9 --trials 16
    python -m vgg_dist.tune --arch D --data DIR --search grid --search-lr 1e-3 1e-2 1e-1 --search-train-scale 256 384 256-512
    ray job submit -- python -m vgg_dist.tune --data s3://bucket/imagenet --storage-path s3://bucket/runs --num-workers 4

Trials are runs in --storage-path/--name, nested in MLflow under one run. The same command again, or --name alone, resumes a
search that was interrupted. At the end it prints a table and the vgg_dist.train command of the best trial, and writes a page
with plots.
"""

from __future__ import annotations

import math
import sys

from pipelines.cli import run_command
from pipelines.signals import end_with
from vgg_dist.config import TrainSettings, TuneConfig
from vgg_dist.config.command_line import parse_resuming
from vgg_dist.config.suggestions import suggestions
from vgg_dist.errors import TrainingError
from vgg_dist.launch.ending import stoppable_runs
from vgg_dist.launch.open_data import open_data_here
from vgg_dist.run_folder.settings import SEARCH, find_settings
from vgg_dist.tuning.description import describe


def main(prog: str = "python -m vgg_dist.tune") -> None:
    """The command line."""
    status = run_command(
        prog,
        lambda: parse_resuming(TuneConfig, prog, __doc__, find_settings(SEARCH)),
        search,
        improve=suggestions(TuneConfig),
        stopping=stoppable_runs,
        errors=(ValueError, TrainingError),
    )
    sys.exit(status)


def search(config: TuneConfig) -> TrainSettings:
    """Runs a search to its end and returns the best trial's settings.

    ValueError for settings or data that cannot be used, before anything is started; TrainingError for a search in which no
    trial gave a result.
    """
    config = config.resolved()
    end_with(f"; the same command with --name {config.name} resumes it")
    images = ""
    if splits := open_data_here(config):
        train, val = splits
        classes = len(train.class_names)
        steps = math.ceil(len(train) / config.global_batch)
        images = f"; an epoch has {steps} steps ({len(train)} images), and a validation of {len(val)} images"
        if config.metric == "top5_error" and classes <= 5:
            raise ValueError(f"--metric top5_error: is 0 for every net, as the data has {classes} classes; use top1_error")
    # Imported here, so that neither --help nor the message of a mistake waits for torch and Ray Tune.
    from vgg_dist.preflight import check_search

    check_search(config)
    print(f"vgg_dist.tune: {describe(config)}{images}", flush=True)
    from vgg_dist.tuning.report import report_search
    from vgg_dist.tuning.search import run_search

    found = run_search(config)
    report_search(config, found)
    return found.trials[0].config


if __name__ == "__main__":
    main()
