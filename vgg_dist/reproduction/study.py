"""What follows the trainings of a study: evaluates its nets, and writes the report of what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from pipelines.paths import join
from pipelines.secrets import masked
from vgg_dist.config import EvalConfig, ReproduceConfig, TrainSettings, flag
from vgg_dist.evaluation.compute import Evaluation, compute, plan_evaluation
from vgg_dist.metric_names import DATA_WAIT_SHARE, IMAGES_PER_SECOND, Record
from vgg_dist.paper import single_scale
from vgg_dist.reporting.paper_tables.errors import top_guesses
from vgg_dist.reporting.studies import Results, StudiedNet, StudyReport, Training
from vgg_dist.reporting.studies.results import Kind
from vgg_dist.reproduction.run_graph import Run
from vgg_dist.reproduction.study_runs import Variant, study_view, variant_of
from vgg_dist.run_folder.checkpoints import whole_checkpoints
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import RECORDS
from vgg_dist.run_folder.outcome import read_earlier
from vgg_dist.storage import read_file, replace_file
from vgg_dist.tracking import TrackedRun, log_report, ui_hint
from vgg_dist.training.cost import parameters_and_macs

SHOWN = (
    "data", "epochs", "max_steps", "global_batch", "lr", "warmup_epochs", "patience", "lr_drops", "momentum", "weight_decay",
    "dropout", "head", "width", "init", "pad", "flip", "color_shift", "precision",
)  # fmt: skip
"""The settings that the page names; --head, --width and --dropout as far as a net has them."""


def finished_runs(runs: Sequence[Run]) -> list[Run]:
    """Those that are trained to their end."""
    found = [(run, read_earlier(run.config)) for run in runs]
    return [run for run, earlier in found if earlier is not None and earlier.is_all(run.config)]


def report_study(
    config: ReproduceConfig, runs: Sequence[Run], failures: Mapping[str, str], evaluation: EvalConfig, parent: TrackedRun
) -> StudyReport:
    """Evaluates the finished ones of `runs`, of which `evaluation` names the folders, and writes the report.

    `failures`: the reasons by name of those that failed. ValueError or OSError, one line, for what stops it.
    """
    finished = finished_runs(runs)
    plan = plan_evaluation(evaluation, lambda net, view, scale: scale == single_scale(net.train_scale or (0, 0)))
    compute(plan, evaluation)
    results = collect(runs, finished, failures, plan, config)
    assert config.study != "paper"
    report = StudyReport(config.study, results)
    files = {name: text.encode(errors="backslashreplace") for name, text in report.files().items()}
    for name, content in files.items():
        replace_file(join(config.folder, name), content)
    log_report(parent, report.metrics, files)
    print(f"{report.to_text()}\nreport: {masked(join(config.folder, 'study.html'))}")
    print(ui_hint(parent, "artifacts/study.html"))
    return report


def collect(
    runs: Sequence[Run], finished: Sequence[Run], failures: Mapping[str, str], plan: Evaluation, config: ReproduceConfig
) -> Results:
    """The results of the finished runs, which are the nets of `plan` in the same order."""
    num_classes = len(plan.images.class_names)
    trained: dict[Variant, list[Training]] = {}
    settings = {variant_of(run.config): run.config for run in runs}
    for number, run in enumerate(finished):
        ((view, scale),) = plan.files[number]
        guesses = top_guesses(plan.reader(number)(view, scale))
        earlier = read_earlier(run.config)
        epochs = None if earlier is None or earlier.outcome is None else earlier.outcome["metrics"].get("epoch")
        training = Training.of_guesses(
            run.name, run.config.seed, guesses, plan.labels, num_classes, epochs, step_rate(run.config)
        )
        trained.setdefault(variant_of(run.config), []).append(training)
    names = {run.name for run in finished}
    shared = config.to_dict()
    return Results(
        nets=tuple(
            studied_net(variant, of_net, trained[variant], num_classes)
            for variant, of_net in settings.items()
            if variant in trained
        ),
        missing=tuple((run.name, _why_missing(run, failures, names)) for run in runs if run.name not in names),
        images=len(plan.labels),
        num_classes=num_classes,
        view=study_view(config),
        settings=tuple((flag(name), str(shared[name])) for name in SHOWN if shared[name] is not None),
    )


def studied_net(variant: Variant, config: TrainSettings, trainings: Sequence[Training], num_classes: int) -> StudiedNet:
    """A net of the study, with its size and cost."""
    parameters, image_macs = parameters_and_macs(config, num_classes)
    kind: Kind = "batch norm" if config.batch_norm else "earlier" if config.arch.islower() else "vgg"
    return StudiedNet(
        name=variant.name,
        kind=kind,
        twin=variant._replace(batch_norm=False).name if config.batch_norm else None,
        image_size=config.image_size,
        scale=str(config.train_scale),
        parameters=parameters,
        macs=image_macs,
        trainings=tuple(trainings),
    )


def _why_missing(run: Run, failures: Mapping[str, str], finished: set[str]) -> str:
    if run.name in failures:
        return failures[run.name]
    if run.depends_on is not None and run.depends_on not in finished:
        return f"starts from {run.depends_on}, which is not trained"
    return "not trained"


def step_rate(config: TrainSettings) -> float | None:
    """Images/s of a run's training steps, over all workers, without the time spent waiting for data.

    The median of what the run logged before its last checkpoints, when its kernels were tuned; None if there is nothing.
    """
    rates = []
    for record in _last_records(RunFolder.of(config)):
        rate, waited = record["metrics"].get(IMAGES_PER_SECOND), record["metrics"].get(DATA_WAIT_SHARE, 0.0)
        if rate is not None and waited < 1:
            rates.append(rate / (1 - waited))
    return median(rates) if rates else None


def _last_records(folder: RunFolder) -> Iterator[Record]:
    """Those in the run's checkpoints; a damaged file is passed over."""
    for name in whole_checkpoints(folder.filesystem, folder.path):
        try:
            yield from json.loads(read_file(folder.url_of(f"{folder.checkpoint(name)}/{RECORDS}")) or b"[]")
        except ValueError:
            continue
