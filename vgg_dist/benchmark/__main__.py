"""The command line: `python -m vgg_dist.benchmark loader|segments|step|...|scaling`."""

from __future__ import annotations

import importlib.util
import sys

import tyro

import vgg_dist.benchmark
from pipelines.cli import run_command
from pipelines.signals import stoppable
from vgg_dist.benchmark.options import (
    CacheBenchmark,
    CheckpointBenchmark,
    EvaluationBenchmark,
    LoaderBenchmark,
    SegmentsBenchmark,
    StepBenchmark,
)
from vgg_dist.benchmark.scaling.options import ScalingBenchmark
from vgg_dist.benchmark.subcommands import Benchmark
from vgg_dist.config.suggestions import suggestions


def main(prog: str = "python -m vgg_dist.benchmark") -> None:
    """Runs the chosen benchmark. A user's mistake gives one line on stderr and exit status 2."""
    status = run_command(
        prog,
        lambda: tyro.cli(Benchmark, prog=prog, description=vgg_dist.benchmark.__doc__),
        run,
        improve=suggestions(Benchmark),
        stopping=stoppable,
        errors=(ValueError,),
    )
    sys.exit(status)


def run(options: Benchmark) -> None:
    """Measures and prints. Raises ValueError, one line, for invalid settings or data."""
    options.check()
    # Imported here, because torch and DALI take seconds to import and `--help` needs neither.
    if isinstance(options, LoaderBenchmark):
        _need_dali("loader")
        from vgg_dist.benchmark.loader import run_loader

        run_loader(options)
    elif isinstance(options, SegmentsBenchmark):
        _need_dali("segments")
        from vgg_dist.benchmark.segments import run_segments

        run_segments(options)
    elif isinstance(options, StepBenchmark):
        from vgg_dist.benchmark.step import run_step

        run_step(options)
    elif isinstance(options, CheckpointBenchmark):
        from vgg_dist.benchmark.checkpoint import run_checkpoint

        run_checkpoint(options)
    elif isinstance(options, EvaluationBenchmark):
        from vgg_dist.benchmark.evaluation import run_evaluation

        run_evaluation(options)
    elif isinstance(options, CacheBenchmark):
        from vgg_dist.benchmark.cache import run_cache

        run_cache(options)
    elif isinstance(options, ScalingBenchmark):
        from vgg_dist.benchmark.scaling.run import run_scaling

        run_scaling(options)
    else:
        from vgg_dist.benchmark.startup import run_startup

        run_startup(options)


def _need_dali(benchmark: str) -> None:
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        raise ValueError(f"{benchmark}: needs DALI, which is not installed (it has no build for this system)")


if __name__ == "__main__":
    main()
