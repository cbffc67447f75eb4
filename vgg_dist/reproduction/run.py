"""The reproduction from its settings to its report: trains the runs of a study, evaluates and records them in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipelines import signals
from pipelines.paths import join
from vgg_dist.config import EvalConfig, ReproduceConfig
from vgg_dist.config.worker_range import fixed_workers
from vgg_dist.evaluation.run import evaluate
from vgg_dist.paper import AnyView, single_scale
from vgg_dist.preflight import check_evaluation
from vgg_dist.reproduction.run_graph import Run, wants_crops
from vgg_dist.reproduction.scheduler import RunsFailed, run_all
from vgg_dist.reproduction.study import finished_runs, report_study
from vgg_dist.reproduction.study_runs import study_view
from vgg_dist.run_folder.outcome import check_earlier
from vgg_dist.run_folder.settings import PROGRAMME, keep_settings, refuse_other_study
from vgg_dist.tracking import TrackedRun, open_run, recorded, resolve_tracking_uri
from vgg_dist.weights.net import TrainedNet


def reproduce(config: ReproduceConfig, runs: Sequence[Run], class_names: list[str] | None) -> None:
    """Trains `runs` and evaluates them, or resumes that; `config` is resolved.

    `class_names`: the data's, where they are known. ValueError or OSError, one line, for what stops it, TrainingError for a
    run that failed.
    """
    # Before the record in MLflow is opened: a run that is refused would leave it FAILED.
    refuse_other_study(config)
    for run in runs:
        check_earlier(run.config, class_names)
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    tags = {"mlflow.source.name": "vgg_dist.reproduce"}
    with signals.holding():
        parent = open_run(uri, config.experiment, config.storage_path, str(config.name), config.to_dict(), tags)
        keep_settings(config.folder, config, PROGRAMME)
        with recorded(parent):
            if config.study != "paper":
                train_and_compare(config, runs, parent)
                return
            run_all(config, runs, parent)
            with signals.raising():
                evaluate_all(config, runs, parent)


def train_and_compare(config: ReproduceConfig, runs: Sequence[Run], parent: TrackedRun) -> None:
    """Trains the runs of a small study and reports all that are finished, also where others failed.

    RunsFailed at the end if some failed. ValueError or OSError, one line, for what else stops it.
    """
    failed: RunsFailed | None = None
    try:
        run_all(config, runs, parent)
    except RunsFailed as error:
        failed = error
    with signals.raising():
        if finished := finished_runs(runs):
            evaluation = evaluation_config(config, finished, (study_view(config),), parent)
            report_study(config, runs, failed.failures if failed else {}, evaluation, parent)
    if failed:
        raise failed


def evaluate_all(config: ReproduceConfig, runs: Sequence[Run], parent: TrackedRun) -> None:
    """Computes the posteriors that the tables up to the last wanted one need, and writes the report."""
    trained = {run.name: run.config for run in runs}

    def needed(net: TrainedNet, view: AnyView, scale: int) -> bool:
        if view == "crops" and not wants_crops(config, trained[net.name]):
            return False
        return config.through != "table3" or scale == single_scale(net.train_scale or (0, 0))

    crops = any(wants_crops(config, run.config) for run in runs)
    evaluate(evaluation_config(config, runs, ("dense", "crops") if crops else ("dense",), parent), needed, parent)


def evaluation_config(
    config: ReproduceConfig, runs: Sequence[Run], views: tuple[Literal["dense", "crops", "center"], ...], parent: TrackedRun
) -> EvalConfig:
    """The resolved settings of the evaluation of these runs. ValueError, one line, for what can be refused at once."""
    evaluation = EvalConfig(
        nets=tuple(join(config.folder, run.name) for run in runs),
        views=views,
        storage_path=config.folder,
        name="evaluation",
        num_workers=fixed_workers(config.num_workers),
        precision=config.precision,
        loader_threads=config.loader_threads,
        max_pixels=config.max_pixels,
        quarantine=config.quarantine,
        experiment=config.experiment,
        tracking_uri=parent.tracking_uri,
    ).resolved()
    check_evaluation(evaluation)
    return evaluation
