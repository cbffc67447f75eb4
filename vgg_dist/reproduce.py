"""Reproduce the paper: train its networks one from another, evaluate them, and print its tables beside ours.

    python -m vgg_dist.reproduce --data /data/imagenet --plan
    python -m vgg_dist.reproduce --data /data/imagenet --num-workers 8
    ray job submit -- python -m vgg_dist.reproduce --data s3://bucket/imagenet --storage-path s3://bucket/runs

All of it is in --storage-path/--name. The same command again, or --name alone, goes on where it was killed: what is
finished is not run again.
Runs that do not need each other go in parallel where the cluster has room for several times --num-workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines import signals
from pipelines.cli import fail, one_line_errors
from pipelines.paths import join
from pipelines.stores.class_checks import tell_remarks
from pipelines.stores.open import open_splits
from vgg_dist.config import EvalConfig, ReproduceConfig
from vgg_dist.config.command_line import parse_resuming
from vgg_dist.config.suggestions import suggestions
from vgg_dist.errors import TrainingError
from vgg_dist.launch.ending import stoppable_runs
from vgg_dist.ray_cluster.address import cluster_named
from vgg_dist.run_folder.settings import PROGRAMME, find_settings, keep_settings

if TYPE_CHECKING:
    from vgg_dist.paper import AnyView
    from vgg_dist.reproduction.run_graph import Run
    from vgg_dist.tracking import TrackedRun
    from vgg_dist.weights.net import TrainedNet


def main() -> None:
    """The command line."""
    with one_line_errors("vgg_dist.reproduce", suggestions(ReproduceConfig)):
        config = parse_resuming(ReproduceConfig, "python -m vgg_dist.reproduce", __doc__, find_settings(PROGRAMME))
    try:
        with stoppable_runs("vgg_dist.reproduce"):
            reproduce(config)
    except (ValueError, OSError, TrainingError) as error:
        fail("vgg_dist.reproduce", error)


def reproduce(config: ReproduceConfig) -> None:
    """Runs the programme, or prints its plan. ValueError, OSError or TrainingError, one line, for whatever stops it."""
    config = config.resolved()
    signals.end_with(f"; the same command with --name {config.name} resumes it")
    splits = open_splits(config.data, quarantine=config.quarantine) if config.plan or not cluster_named() else None
    if splits is not None:
        tell_remarks(config.data, train=splits[0], val=splits[1])
    # In here, so that --help does not wait for these imports, nor a mistake for that of torch.
    from vgg_dist.preflight import check_place

    if not config.plan:
        check_place(config.storage_path, config.tracking_uri, config.num_workers)
    from vgg_dist.reproduction.run_graph import programme

    runs = programme(config)
    if config.plan:
        assert splits is not None
        print(plan(config, runs, (len(splits[0]), len(splits[1])), len(splits[0].class_names)))
        return
    from vgg_dist.reproduction.scheduler import run_all
    from vgg_dist.run_folder.outcome import check_earlier
    from vgg_dist.tracking import open_run, recorded, resolve_tracking_uri

    for run in runs:  # before the programme's record in MLflow is opened, which a refusal would leave at FAILED
        check_earlier(run.config, splits[0].class_names if splits else None)
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    tags = {"mlflow.source.name": "vgg_dist.reproduce"}
    with signals.holding():
        parent = open_run(uri, config.experiment, config.storage_path, config.name or "", config.to_dict(), tags)
        keep_settings(config.folder, config, PROGRAMME)
        with recorded(parent):
            run_all(config, runs, parent)
            with signals.raising():
                evaluate_all(config, runs, parent)


def plan(config: ReproduceConfig, runs: list[Run], images: tuple[int, int], num_classes: int) -> str:
    """The programme as a table, with steps measured on a GPU of the cluster, or here; and the command of each run."""
    import torch

    from pipelines.progress import Progress
    from vgg_dist.reproduction.run_graph import describe_plan, measure_rate

    archs = {run.config.arch: run.config for run in runs}
    rates = {
        arch: measure_rate(of_arch, num_classes) for arch, of_arch in Progress(archs.items(), desc="measuring", leave=False)
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({torch.get_num_threads()} threads)"
    commands = "\n".join(run.config.command_line() for run in runs)
    return f"{describe_plan(config, runs, images, rates, device)}\n\n{commands}"


def evaluate_all(config: ReproduceConfig, runs: list[Run], parent: TrackedRun) -> None:
    """Every posterior that the wanted tables need, and the report."""
    from vgg_dist.evaluate import evaluate
    from vgg_dist.paper import single_scale
    from vgg_dist.reproduction.run_graph import wants_crops

    of_run = {run.name: run.config for run in runs}

    def wanted(net: TrainedNet, view: AnyView, scale: int) -> bool:
        if view == "crops" and not wants_crops(config, of_run[net.name]):
            return False
        return config.upto != "table3" or scale == single_scale(net.train_scale or (0, 0))

    evaluate(
        EvalConfig(
            nets=tuple(join(config.folder, run.name) for run in runs),
            views=("dense", "crops") if any(wants_crops(config, run.config) for run in runs) else ("dense",),
            storage_path=config.folder,
            name="evaluation",
            num_workers=config.num_workers,
            precision=config.precision,
            loader_threads=config.loader_threads,
            max_pixels=config.max_pixels,
            quarantine=config.quarantine,
            experiment=config.experiment,
            tracking_uri=parent.tracking_uri,
        ),
        wanted,
        parent,
    )


if __name__ == "__main__":
    main()
