"""The command `benchmark scaling`: measures the layouts in turn, fits the model, predicts clusters, prints and saves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from statistics import median
from typing import Any

from pipelines.progress import Progress
from vgg_dist.benchmark.report import write_json
from vgg_dist.benchmark.scaling import clusters, report
from vgg_dist.benchmark.scaling.hosts import hosts
from vgg_dist.benchmark.scaling.layouts import DDP_BUCKET_MB, layout_fields
from vgg_dist.benchmark.scaling.model import Cluster, Constants, Observation, fit
from vgg_dist.benchmark.scaling.net import describe
from vgg_dist.benchmark.scaling.options import ScalingBenchmark
from vgg_dist.benchmark.scaling.settings import Setting
from vgg_dist.benchmark.scaling.traffic import exchange_of, sent_bytes, state_bytes
from vgg_dist.benchmark.scaling.worker import Job, Measured
from vgg_dist.benchmark.scaling.workers import Workers, workers

ALONE = "alone"
"""In place of a layout: the same steps without the other hosts."""
WARMUP = 3  # steps: DDP arranges its buckets after the first, PowerSGD starts with the third


def run_scaling(options: ScalingBenchmark) -> None:
    """Measures, fits, predicts, prints and saves. Raises ValueError, one line, where hosts cannot be made."""
    settings: list[Setting] = []
    constants = None
    if options.measure:
        settings = measure_all(options)
        constants = fit_and_predict(options, settings)
        print(report.measurements(options, settings, constants))
    predictions = clusters.predict(options)
    print(report.predictions(options, predictions))
    if options.plot is not None:
        from vgg_dist.benchmark.scaling.plot import draw  # matplotlib is slow to import

        draw(options, settings, options.plot)
    if options.json is not None:
        figures: dict[str, Any] = {
            "settings_measured": [asdict(setting) for setting in settings],
            "constants": None if constants is None else asdict(constants),
            "predictions": [asdict(prediction) for prediction in predictions],
            "published": [asdict(check) for check in clusters.published()],
        }
        write_json(options.json, options, figures)


def empty_settings(options: ScalingBenchmark) -> list[Setting]:
    """All settings to measure, in the order of a round."""
    found = []
    for mbits in options.mbits:
        for arch in options.archs:
            net = describe(arch, options.image_size)
            layouts = [(layout, bucket) for layout in options.layouts for bucket in options.bucket_mb]
            for layout, bucket in [(ALONE, DDP_BUCKET_MB), *layouts]:
                exchange = exchange_of(layout_fields(layout, options.hosts), bucket_mb=bucket)
                counted = 0.0 if layout == ALONE else sent_bytes(net, exchange, options.hosts, options.images)
                state = state_bytes(net, exchange, options.hosts)
                found.append(Setting(arch, layout, mbits, counted, state, bucket))
    return found


def measure_all(options: ScalingBenchmark) -> list[Setting]:
    """Measures every setting in every round."""
    settings = empty_settings(options)
    with hosts(options.hosts) as made, workers(made, options.hosts, options.threads) as started:
        rounds = [setting for _ in range(options.rounds) for setting in settings]
        for setting in Progress(rounds, "measuring", unit="layout"):
            setting.add(measure(options, setting, started))
    return settings


def measure(options: ScalingBenchmark, setting: Setting, started: Workers) -> list[Measured]:
    """One round of one setting."""
    job = Job(
        arch=setting.arch,
        image_size=options.image_size,
        images=options.images,
        layout=layout_fields(setting.layout, options.hosts),
        alone=setting.layout == ALONE,
        warmup=WARMUP,
        steps=options.steps,
        bucket_mb=setting.bucket_mb,
    )
    return started.run(job, setting.mbits)


def fit_and_predict(options: ScalingBenchmark, settings: list[Setting]) -> Constants:
    """Fits the model to the first net at all rates but the last, and fills in what it predicts of every setting."""
    observed = list(observations(options, settings))
    rates = options.mbits[:-1] or options.mbits
    for setting, _ in observed:
        kind = setting.arch, setting.bucket_mb
        setting.fitted = kind == (options.archs[0], options.bucket_mb[0]) and setting.mbits in rates
    constants = fit([observation for setting, observation in observed if setting.fitted])
    for setting, observation in observed:
        setting.predicted_s = observation.predicted(constants)
    return constants


def observations(options: ScalingBenchmark, settings: list[Setting]) -> Iterator[tuple[Setting, Observation]]:
    """Each setting with a network, as the model takes it, with the computing of the steps alone at the same rate.

    These are measured in the same minutes: a machine's speed drifts.
    """
    alone = {(setting.arch, setting.mbits): setting.compute() for setting in settings if setting.layout == ALONE}
    for setting in settings:
        if setting.layout == ALONE:
            continue
        observation = Observation(
            net=describe(setting.arch, options.image_size),
            exchange=exchange_of(layout_fields(setting.layout, options.hosts), bucket_mb=setting.bucket_mb),
            compute=alone[setting.arch, setting.mbits],
            images=options.images,
            cluster=Cluster(options.hosts, setting.mbits * 1e6 / 8, gloo=True),
            seconds=median(setting.step_s),
        )
        yield setting, observation
