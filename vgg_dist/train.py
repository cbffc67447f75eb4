"""Train a network on a Ray cluster, or on this machine where there is none (paper, section 3.1).

    python -m vgg_dist.train --arch E --data /data/imagenet
    ray job submit -- python -m vgg_dist.train --arch E --data s3://bucket/imagenet --storage-path s3://bucket/runs

The same --storage-path and --name again resume a run from its last checkpoint.
"""

from __future__ import annotations

import os

import tyro

from pipelines.command import fail, one_line_errors
from pipelines.store import open_splits
from vgg_dist.config import TrainConfig, TrainingError
from vgg_dist.config.suggestions import suggestions
from vgg_dist.phases import mark


def main() -> None:
    """The command line."""
    mark("Python started")
    with one_line_errors("vgg_dist.train", suggestions(TrainConfig)):
        config = tyro.cli(TrainConfig, prog="python -m vgg_dist.train", description=__doc__)
    try:
        train(config)
    except (ValueError, TrainingError) as error:
        fail("vgg_dist.train", error)


def train(config: TrainConfig) -> dict[str, float]:
    """Runs a training to its end and returns the last validation metrics.

    ValueError for a setting or data that cannot be; TrainingError for a run that failed. What can be found wrong is found
    before anything is started.
    """
    config = config.resolved()
    class_names = None
    if "RAY_ADDRESS" not in os.environ:  # on a cluster the data may be where the workers are, and only there
        class_names = open_splits(config.data)[0].class_names
    # In here, so that --help and mistakes do not wait for the import of torch and Ray.
    from vgg_dist.driver import run_training

    mark("imports done")

    return run_training(config, class_names=class_names)


if __name__ == "__main__":
    main()
