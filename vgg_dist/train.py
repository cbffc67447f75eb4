"""Train a network on a Ray cluster, or on this machine where there is none (paper, section 3.1).

    python -m vgg_dist.train --arch E --data /data/imagenet --dry-run
    python -m vgg_dist.train --arch E --data /data/imagenet
    ray job submit -- python -m vgg_dist.train --arch E --data s3://bucket/imagenet --storage-path s3://bucket/runs

The same --storage-path and --name again resume a run from its last checkpoint. Flags that are not given keep the run's
values:

    python -m vgg_dist.train --name first

Every run has its settings in its folder, as config.yaml. They train another run like it:

    python -m vgg_dist.train --config runs/first/config.yaml --name second --seed 1
"""

from __future__ import annotations

from pipelines.cli import run_command
from pipelines.loading.shard_order import check_shuffle
from pipelines.signals import end_with
from pipelines.stores.open import open_splits
from vgg_dist.config import TrainCommand, TrainConfig, TrainSettings
from vgg_dist.config.command_line import parse_resuming
from vgg_dist.config.suggestions import suggestions
from vgg_dist.config.worker_range import WorkerRange
from vgg_dist.errors import TrainingError
from vgg_dist.launch.ending import leave, stoppable_runs
from vgg_dist.launch.open_data import open_data_here
from vgg_dist.run_folder.outcome import find_run
from vgg_dist.startup_marks import mark


def main(prog: str = "python -m vgg_dist.train") -> None:
    """The command line."""
    mark("Python started")
    status = run_command(
        prog,
        lambda: parse_resuming(TrainCommand, prog, __doc__, find_run),
        train_or_plan,
        improve=suggestions(TrainCommand),
        stopping=stoppable_runs,
        errors=(ValueError, TrainingError),
    )
    leave(status)


def train_or_plan(config: TrainCommand) -> None:
    """Trains, or prints what would be trained. Raises as `train`."""
    if config.dry_run:
        print(plan(config.resolved()))
    else:
        train(config)


def plan(settings: TrainSettings) -> str:
    """What would be trained, for people. Writes nothing and starts no Ray.

    ValueError, one line, for data that cannot be used, or a run of that name which these settings cannot resume.
    """
    train_images, val_images = open_splits(settings.data, quarantine=settings.quarantine)
    check_shuffle(settings.shuffle, train_images, settings.data)
    from vgg_dist.run_folder.outcome import check_earlier
    from vgg_dist.training.cost import describe_training

    check_earlier(settings, train_images.class_names)
    return describe_training(settings, (len(train_images), len(val_images)), len(train_images.class_names))


def train(config: TrainConfig) -> dict[str, float]:
    """Runs a training to its end and returns the last validation metrics.

    ValueError for settings or data that cannot be used, as far as possible before anything is started; TrainingError for a
    run that failed.
    """
    config = config.resolved()
    end_with(f" before its first step; the same command with --name {config.name} begins it")
    splits = open_data_here(config)
    class_names = splits[0].class_names if splits else None
    # Imported here, so that neither --help nor the message of a mistake waits for torch and Ray Train.
    from vgg_dist.preflight import check_training

    earlier = check_training(config, class_names)
    if (earlier is None or not earlier.is_all(config)) and (resources := _resources_here(config)) is not None:
        from vgg_dist.launch import in_process

        mark("imports done")
        return in_process.run_training(config, resources, earlier)
    from vgg_dist.launch.driver import run_training

    mark("imports done")
    return run_training(config, class_names=class_names)


def _resources_here(config: TrainSettings) -> dict[str, float] | None:
    """What the only worker has that trains in this process; None where the training needs Ray."""
    from vgg_dist.ray_cluster.nodes import only_worker_here

    # A range is for a cluster whose nodes join and leave.
    return None if isinstance(config.num_workers, WorkerRange) else only_worker_here(config.num_workers)


if __name__ == "__main__":
    main()
