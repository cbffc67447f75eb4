"""Evaluate trained nets as the paper does, and print its tables beside ours (paper, sections 3.2 and 4).

    python -m vgg_dist.evaluate runs/e-384 runs/e-jitter --views dense crops
    python -m vgg_dist.evaluate runs/first --checkpoint best
    python -m vgg_dist.evaluate vgg19.pth --weights-format torchvision --data /data/imagenet --views center
    python -m vgg_dist.evaluate runs/first --predict cat.jpg dog.png

Posteriors are computed once for each net, scale and view, and kept in --storage-path/--name: the same command again goes
on where it was, and more nets, scales or views are added to what is there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import tyro
from numpy.typing import NDArray

from pipelines import signals
from pipelines.cli import fail, one_line_errors
from pipelines.paths import join
from pipelines.quoting import one_line, quoted
from pipelines.secrets import masked
from vgg_dist.config import EvalConfig
from vgg_dist.config.suggestions import suggestions
from vgg_dist.storage import replace_file

if TYPE_CHECKING:
    from vgg_dist.evaluation.compute import Evaluation, Wanted
    from vgg_dist.evaluation.posteriors import PosteriorFiles
    from vgg_dist.paper import AnyView
    from vgg_dist.reporting.paper_tables import Report
    from vgg_dist.tracking import TrackedRun


def main() -> None:
    """The command line."""
    with one_line_errors("vgg_dist.evaluate", suggestions(EvalConfig)):
        config = tyro.cli(EvalConfig, prog="python -m vgg_dist.evaluate", description=__doc__)
    ending = "" if config.predict else f"; the same command with --name {config.name} resumes it"
    try:
        with signals.stoppable("vgg_dist.evaluate", ending, in_order=False):
            if config.predict:
                sys.exit(0 if print_predictions(config.resolved()) else 1)
            evaluate(config)
    except (ValueError, OSError) as error:
        fail("vgg_dist.evaluate", error)


def evaluate(config: EvalConfig, wanted: Wanted | None = None, parent: TrackedRun | None = None) -> Report | None:
    """Evaluates and reports; `wanted` as in `evaluation.plan_evaluation`, `parent` the run in MLflow that it is nested in.

    ValueError or OSError, one line, for whatever stops it; what was computed is kept.
    """
    config = config.resolved()
    # In here, so that --help does not wait for these imports, nor a mistake for that of torch.
    from vgg_dist.preflight import check_evaluation

    check_evaluation(config)
    from vgg_dist.evaluation.compute import compute, plan_evaluation
    from vgg_dist.tracking import open_run, recorded, resolve_tracking_uri

    evaluation = plan_evaluation(config, wanted)
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
            if config.submission is not None:
                submit(evaluation, config)
            report = write_report(evaluation, run) if config.report and labelled else None
    return report


def write_report(evaluation: Evaluation, run: TrackedRun) -> Report:
    """The tables: to the terminal, beside the posteriors, and to MLflow."""
    from vgg_dist.reporting.paper_tables import EvaluatedNet, build_report
    from vgg_dist.tracking import log_report, ui_hint

    names = [f"{net.name} ({net.label})" if net.label else net.name for net in evaluation.nets]
    nets = [
        EvaluatedNet(
            # Two nets of one name are told apart by their weights.
            name=name if names.count(name) == 1 else f"{name} {net.digest[:6]}",
            arch=net.arch,
            batch_norm=net.batch_norm,
            image_size=net.image_size,
            head=net.head,
            train_scale=net.train_scale,
            available=frozenset(files),
            posteriors=evaluation.reader(number),
        )
        for number, (net, name, files) in enumerate(zip(evaluation.nets, names, evaluation.files, strict=True))
    ]
    used = [f"{net.name}: {net.checkpoint}" for net in evaluation.nets if net.checkpoint]
    report = build_report(nets, evaluation.labels, evaluation.images.class_names, used)
    texts = {"report.md": report.to_markdown(), "report.html": report.to_html(evaluation.store.read)}
    files = {name: text.encode(errors="backslashreplace") for name, text in texts.items()}  # names may hold what is no text
    for name, content in files.items():
        replace_file(join(evaluation.folder, name), content)
    log_report(run, report.metrics, files)
    print(f"{report.to_text()}\nreport: {masked(join(evaluation.folder, 'report.html'))}")
    print(ui_hint(run, "artifacts/report.html"))
    return report


def submit(evaluation: Evaluation, config: EvalConfig) -> None:
    """Writes the test server's file: from the mean over scales, then dense and crops, then nets, as in Table 6."""
    from pathlib import Path

    from pipelines.layouts.devkit import read_devkit
    from vgg_dist.reporting.paper_tables import mean_posteriors, write_submission

    assert config.submission is not None
    assert config.devkit is not None
    numbers = {wnid: number for number, wnid in read_devkit(Path(config.devkit))[0].items()}
    if unknown := [name for name in evaluation.images.class_names if name not in numbers]:
        raise ValueError(f"--devkit {config.devkit}: has no class {', '.join(unknown[:5])}")
    posteriors = mean_posteriors(_mean_of_net(files) for files in evaluation.files)
    write_submission(Path(config.submission), posteriors, [numbers[name] for name in evaluation.images.class_names])
    print(f"submission: {config.submission}")


def _mean_of_net(files: Mapping[tuple[AnyView, int], PosteriorFiles]) -> NDArray[np.float32]:
    from vgg_dist.reporting.paper_tables import mean_posteriors

    views = {view for view, _ in files}
    return mean_posteriors(
        mean_posteriors(one.read() for (of, _), one in files.items() if of == view)
        for view in sorted(views - {"center"} or views)
    )


def print_predictions(config: EvalConfig) -> bool:
    """The five best classes of each picture, with their posteriors; a line on stderr for each that cannot be read.

    Returns whether all could be.
    """
    from pipelines.stores.pictures import Pictures
    from vgg_dist.evaluation.compute import predict
    from vgg_dist.evaluation.open import open_nets

    nets = open_nets(config)
    for line in filter(None, (net.origin for net in nets)):
        print(line, file=sys.stderr)  # what begins with the command's name there are the pictures that failed
    labels = [net.class_labels or net.class_names for net in nets]
    names = next((each for each in labels if each is not None), None)
    pictures = Pictures(config.predict, config.max_pixels)
    for picture, posteriors in zip(pictures.files, predict(config, pictures) if pictures.files else (), strict=True):
        print(quoted(masked(picture)))
        for label in (-posteriors).argsort(kind="stable")[:5]:
            print(f"  {100 * posteriors[label]:6.2f} %  {quoted(names[label]) if names is not None else f'class {label}'}")
    if len(pictures.left_out):
        print(f"left out: {masked(pictures.left_out.summary())}", file=sys.stderr)
    for picture, why in pictures.failed.items():
        print(f"vgg_dist.evaluate: --predict {masked(f'{quoted(picture)}: {one_line(why)}')}", file=sys.stderr)
    return not pictures.failed


if __name__ == "__main__":
    main()
