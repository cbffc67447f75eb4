"""An evaluation from its settings to its report: computes the posteriors, writes the tables, records both in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines import signals
from pipelines.layouts.devkit import read_devkit
from pipelines.paths import join
from pipelines.secrets import masked
from vgg_dist.config import EvalConfig
from vgg_dist.evaluation.compute import Evaluation, ViewFilter, compute, plan_evaluation
from vgg_dist.evaluation.posteriors import PosteriorFiles
from vgg_dist.paper import AnyView
from vgg_dist.reporting.paper_tables import EvaluatedNet, Report, build_report, mean_posteriors, write_submission
from vgg_dist.run_folder.settings import keep_config
from vgg_dist.storage import replace_file
from vgg_dist.tracking import TrackedRun, log_report, open_run, recorded, resolve_tracking_uri, ui_hint


def evaluate(config: EvalConfig, only: ViewFilter | None = None, parent: TrackedRun | None = None) -> Report | None:
    """Runs an evaluation, `config` being resolved, or resumes it; the report, None where the classes are not known.

    `only`: as in `plan_evaluation`. `parent`: the MLflow run that this one is nested in. ValueError or OSError, one line,
    for what stops it; the posteriors computed so far are kept.
    """
    evaluation = plan_evaluation(config, only)
    for net in evaluation.nets:
        if net.origin:
            print(f"vgg_dist.evaluate: {net.origin}", flush=True)
    labelled = bool((evaluation.labels >= 0).all())
    if config.submission is None and not labelled:
        raise ValueError(f"--data {config.data}: a folder of images without classes needs --labels, or --submission")
    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    tags = {"mlflow.source.name": "vgg_dist.evaluate"}
    with signals.holding():
        run = open_run(uri, config.experiment, config.storage_path, config.name, config.to_dict(), tags, parent)
        with recorded(run), signals.raising():
            compute(evaluation, config)
            keep_config(evaluation.folder, config, "vgg_dist.evaluate")
            if config.submission is not None:
                submit(evaluation, config)
            report = write_report(evaluation, run) if config.report and labelled else None
    return report


def write_report(evaluation: Evaluation, run: TrackedRun) -> Report:
    """Prints the tables, and writes them into the evaluation's folder and to MLflow."""
    names = [f"{net.name} ({net.label})" if net.label else net.name for net in evaluation.nets]
    nets = [
        EvaluatedNet(
            # Two nets of one name are told apart by the digests of their weights.
            name=name if names.count(name) == 1 else f"{name} {net.digest[:6]}",
            arch=net.arch,
            batch_norm=net.batch_norm,
            image_size=net.image_size,
            head=net.head,
            width=net.width,
            train_scale=net.train_scale,
            available=frozenset(files),
            posteriors=evaluation.reader(number),
        )
        for number, (net, name, files) in enumerate(zip(evaluation.nets, names, evaluation.files, strict=True))
    ]
    used = [f"{net.name}: {net.checkpoint}" for net in evaluation.nets if net.checkpoint]
    report = build_report(nets, evaluation.labels, evaluation.images.class_names, used, evaluation.store.name)
    texts = report.files(evaluation.store.read)
    # Names of files and classes may hold bytes that are not valid Unicode.
    files = {name: text.encode(errors="backslashreplace") for name, text in texts.items()}
    for name, content in files.items():
        replace_file(join(evaluation.folder, name), content)
    log_report(run, report.metrics, files)
    print(f"{report.to_text()}\nreport: {masked(join(evaluation.folder, 'report.html'))}")
    print(f"predictions for every image: {masked(join(evaluation.folder, 'predictions.csv'))}")
    print(ui_hint(run, "artifacts/report.html"))
    return report


def submit(evaluation: Evaluation, config: EvalConfig) -> None:
    """Writes the file for the ILSVRC test server.

    The posteriors are averaged over scales, then over dense and crops, then over nets, as in Table 6.
    """
    assert config.submission is not None
    assert config.devkit is not None
    numbers = {wnid: number for number, wnid in read_devkit(Path(config.devkit))[0].items()}
    if unknown := [name for name in evaluation.images.class_names if name not in numbers]:
        raise ValueError(f"--devkit {config.devkit}: has no class {', '.join(unknown[:5])}")
    posteriors = mean_posteriors(_mean_of_net(files) for files in evaluation.files)
    write_submission(Path(config.submission), posteriors, [numbers[name] for name in evaluation.images.class_names])
    print(f"submission: {config.submission}")


def _mean_of_net(files: Mapping[tuple[AnyView, int], PosteriorFiles]) -> NDArray[np.float32]:
    """(n, num_classes): the mean over the net's views of the mean over scales; center only where there is no other view."""
    views = {view for view, _ in files}
    return mean_posteriors(
        mean_posteriors(one.read() for (of, _), one in files.items() if of == view)
        for view in sorted(views - {"center"} or views)
    )
