"""The benchmarks by name: what `python -m vgg_dist.benchmark` parses. Does not import torch."""

from __future__ import annotations

from typing import Annotated

import tyro

from vgg_dist.benchmark.options import (
    CacheBenchmark,
    CheckpointBenchmark,
    EvaluationBenchmark,
    LoaderBenchmark,
    SegmentsBenchmark,
    StartupBenchmark,
    StepBenchmark,
)
from vgg_dist.benchmark.scaling.options import ScalingBenchmark

Benchmark = (
    Annotated[LoaderBenchmark, tyro.conf.subcommand("loader")]
    | Annotated[SegmentsBenchmark, tyro.conf.subcommand("segments")]
    | Annotated[StepBenchmark, tyro.conf.subcommand("step")]
    | Annotated[CheckpointBenchmark, tyro.conf.subcommand("checkpoint")]
    | Annotated[EvaluationBenchmark, tyro.conf.subcommand("evaluation")]
    | Annotated[CacheBenchmark, tyro.conf.subcommand("cache")]
    | Annotated[ScalingBenchmark, tyro.conf.subcommand("scaling")]
    | Annotated[StartupBenchmark, tyro.conf.subcommand("startup")]
)
