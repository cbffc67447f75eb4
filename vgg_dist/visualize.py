"""Look inside a net: what its layers answer to, what they see, and what it is given, as pictures on one HTML page.

    python -m vgg_dist.visualize deconvnet runs/first --layers conv3_1 conv4_2 --images 1000
    python -m vgg_dist.visualize filters runs/alexnet runs/zfnet
    python -m vgg_dist.visualize occlusion runs/first --images 8
    python -m vgg_dist.visualize receptive-field runs/first
    python -m vgg_dist.visualize augmentations --data /data/imagenet --train-scale 256-512
    python -m vgg_dist.visualize summary E

The deconvnet, the occlusion and the faults of a first layer are those of Zeiler & Fergus (arXiv:1311.2901). Every kind
explains its flags: python -m vgg_dist.visualize deconvnet --help
"""

from __future__ import annotations

import sys

import tyro

from pipelines.cli import run_command
from vgg_dist.config.suggestions import suggestions
from vgg_dist.config.visualize import Pictures


def main(prog: str = "python -m vgg_dist.visualize") -> None:
    """The command line."""
    status = run_command(
        prog, lambda: tyro.cli(Pictures, prog=prog, description=__doc__), visualize, improve=suggestions(Pictures)
    )
    sys.exit(status)


def visualize(options: Pictures) -> None:
    """Draws the pictures and writes the page. ValueError or OSError, one line, for what stops it."""
    options.check()
    # Imported here, so that neither --help nor the message of a mistake waits for torch.
    from vgg_dist.visualization.write import draw_and_write

    draw_and_write(options)


if __name__ == "__main__":
    main()
