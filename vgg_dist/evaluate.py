"""Evaluate trained nets as the paper does, and print its tables beside ours (paper, sections 3.2 and 4).

    python -m vgg_dist.evaluate runs/e-384 runs/e-jitter --views dense crops
    python -m vgg_dist.evaluate runs/first --checkpoint best
    python -m vgg_dist.evaluate vgg19.pth --weights-format torchvision --data /data/imagenet --views center
    python -m vgg_dist.evaluate runs/first --predict cat.jpg dog.png

Posteriors are computed once for each net, scale and view, and kept in --storage-path/--name. The same command again resumes
an evaluation that was interrupted, and computes only what is missing when nets, scales or views are added.
"""

from __future__ import annotations

import sys

from pipelines.cli import run_command
from pipelines.signals import end_with
from vgg_dist.config import EvalConfig
from vgg_dist.config.command_line import parse
from vgg_dist.config.suggestions import suggestions


def main(prog: str = "python -m vgg_dist.evaluate") -> None:
    """The command line."""
    status = run_command(
        prog,
        lambda: parse(EvalConfig, prog, __doc__),
        evaluate_or_predict,
        improve=suggestions(EvalConfig),
    )
    sys.exit(status)


def evaluate_or_predict(config: EvalConfig) -> int:
    """Evaluates the nets, or classifies the pictures of --predict; the exit status: 1 if a picture could not be read.

    ValueError or OSError, one line, for what stops it.
    """
    config = config.resolved()
    # Imported in here, so that neither --help nor the message of a mistake waits for torch.
    if config.predict:
        from vgg_dist.evaluation.predict import print_predictions

        return 0 if print_predictions(config) else 1
    end_with(f"; the same command with --name {config.name} resumes it")
    from vgg_dist.preflight import check_evaluation

    check_evaluation(config)
    from vgg_dist.evaluation.run import evaluate

    evaluate(config)
    return 0


if __name__ == "__main__":
    main()
