"""The command line: `python -m vgg_dist.benchmark loader|step|checkpoint|evaluation|startup`."""

from __future__ import annotations

import tyro

import vgg_dist.benchmark
from pipelines.cli import fail, one_line_errors
from pipelines.signals import stoppable
from vgg_dist.benchmark.options import Benchmark, CheckpointBenchmark, EvaluationBenchmark, LoaderBenchmark, StepBenchmark
from vgg_dist.config.suggestions import suggestions


def main() -> None:
    """Runs the chosen benchmark. A user's mistake gives one line on stderr and exit status 2."""
    with one_line_errors("vgg_dist.benchmark", suggestions(Benchmark)):
        options = tyro.cli(Benchmark, prog="python -m vgg_dist.benchmark", description=vgg_dist.benchmark.__doc__)
    try:
        with stoppable("vgg_dist.benchmark"):
            run(options)
    except ValueError as error:
        fail("vgg_dist.benchmark", error)


def run(options: Benchmark) -> None:
    """Measures and prints. Raises ValueError, one line, for invalid settings or data."""
    options.check()
    # Imported here, because torch and DALI take seconds to import and `--help` needs neither.
    if isinstance(options, LoaderBenchmark):
        from vgg_dist.benchmark.loader import run_loader

        run_loader(options)
    elif isinstance(options, StepBenchmark):
        from vgg_dist.benchmark.step import run_step

        run_step(options)
    elif isinstance(options, CheckpointBenchmark):
        from vgg_dist.benchmark.checkpoint import run_checkpoint

        run_checkpoint(options)
    elif isinstance(options, EvaluationBenchmark):
        from vgg_dist.benchmark.evaluation import run_evaluation

        run_evaluation(options)
    else:
        from vgg_dist.benchmark.startup import run_startup

        run_startup(options)


if __name__ == "__main__":
    main()
