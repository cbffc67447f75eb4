"""Reproduce the paper: train its networks one from another, evaluate them, and print its tables beside ours. Or a study.

    python -m vgg_dist.reproduce --data /data/imagenet --dry-run
    python -m vgg_dist.reproduce --data /data/imagenet --num-workers 8
    python -m vgg_dist.reproduce --data /data/imagenet --study ablations --seeds 3
    ray job submit -- python -m vgg_dist.reproduce --data s3://bucket/imagenet --storage-path s3://bucket/runs

Everything is written to --storage-path/--name. The same command again, or --name alone, resumes where it was interrupted;
runs that are finished are not trained again. Runs that do not depend on each other train at the same time where the cluster
has room for several times --num-workers.
"""

from __future__ import annotations

import sys

from pipelines.cli import run_command
from pipelines.signals import end_with
from vgg_dist.config import ReproduceConfig
from vgg_dist.config.command_line import parse_resuming
from vgg_dist.config.suggestions import suggestions
from vgg_dist.errors import TrainingError
from vgg_dist.launch.ending import stoppable_runs
from vgg_dist.launch.open_data import open_data_here
from vgg_dist.run_folder.settings import PROGRAMME, find_settings, refuse_other_study


def main(prog: str = "python -m vgg_dist.reproduce") -> None:
    """The command line."""
    status = run_command(
        prog,
        lambda: parse_resuming(ReproduceConfig, prog, __doc__, find_settings(PROGRAMME)),
        reproduce_or_plan,
        improve=suggestions(ReproduceConfig),
        stopping=stoppable_runs,
        errors=(ValueError, OSError, TrainingError),
    )
    sys.exit(status)


def reproduce_or_plan(config: ReproduceConfig) -> None:
    """Trains and evaluates the runs of a study, or prints what they would cost.

    ValueError, OSError or TrainingError, one line, for what stops it.
    """
    if config.name is not None:  # before other checks: flags kept from another study would be blamed
        refuse_other_study(config)
    config = config.resolved()
    end_with(f"; the same command with --name {config.name} resumes it")
    splits = open_data_here(config, is_needed=config.dry_run)
    # Imported here, so that neither --help nor the message of a mistake waits for torch.
    from vgg_dist.preflight import check_place

    if not config.dry_run:
        check_place(config.storage_path, config.tracking_uri, config.num_workers)
    from vgg_dist.reproduction.study_runs import enlarged, planned_runs

    runs = planned_runs(config)
    for line in enlarged(runs, config.image_size):
        print(f"vgg_dist.reproduce: {line}", flush=True)
    if config.dry_run:
        from vgg_dist.reproduction.cost import measured_plan

        assert splits is not None
        print(measured_plan(config, runs, (len(splits[0]), len(splits[1])), len(splits[0].class_names)))
        return
    from vgg_dist.reproduction.run import reproduce

    reproduce(config, runs, splits[0].class_names if splits else None)


if __name__ == "__main__":
    main()
