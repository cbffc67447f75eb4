"""Train a network on a Ray cluster, or on this machine where there is none (paper, section 3.1).

    python -m vgg_dist.train --arch E --data /data/imagenet
    ray job submit -- python -m vgg_dist.train --arch E --data s3://bucket/imagenet --storage-path s3://bucket/runs

The same --storage-path and --name again resume a run from its last checkpoint, with its settings where none are given:

    python -m vgg_dist.train --name first
"""

from __future__ import annotations

from pipelines.cli import fail, one_line_errors
from pipelines.signals import end_with
from vgg_dist.config import TrainConfig
from vgg_dist.config.command_line import parse_resuming
from vgg_dist.config.suggestions import suggestions
from vgg_dist.errors import TrainingError
from vgg_dist.launch.ending import stoppable_runs
from vgg_dist.launch.open_data import open_data_here
from vgg_dist.run_folder.outcome import find_run
from vgg_dist.startup_marks import mark


def main() -> None:
    """The command line."""
    mark("Python started")
    with one_line_errors("vgg_dist.train", suggestions(TrainConfig)):
        config = parse_resuming(TrainConfig, "python -m vgg_dist.train", __doc__, find_run)
    try:
        with stoppable_runs("vgg_dist.train"):
            train(config)
    except (ValueError, TrainingError) as error:
        fail("vgg_dist.train", error)


def train(config: TrainConfig) -> dict[str, float]:
    """Runs a training to its end and returns the last validation metrics.

    ValueError for a setting or data that cannot be; TrainingError for a run that failed. What can be found wrong is found
    before anything is started.
    """
    config = config.resolved()
    end_with(f" before its first step; the same command with --name {config.name} begins it")
    splits = open_data_here(config.data, config.quarantine)
    class_names = splits[0].class_names if splits else None
    # In here, so that --help does not wait for these imports, nor a mistake for those of torch and Ray Train.
    from vgg_dist.preflight import check_training

    check_training(config, class_names)
    from vgg_dist.launch.driver import run_training

    mark("imports done")

    return run_training(config, class_names=class_names)


if __name__ == "__main__":
    main()
