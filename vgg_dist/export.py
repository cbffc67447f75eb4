"""Write a trained net for other tools: torchvision, safetensors, ONNX, torch.export.

    python -m vgg_dist.export runs/e-256 --format onnx --output e-256.onnx
    python -m vgg_dist.export vgg16-00b39a1b.pth --weights-format caffe --format safetensors --output vgg16.safetensors

- torchvision (.pth): a state dict that torchvision's own vgg11 to vgg19_bn take with strict=True.
- safetensors (.safetensors): the state dict.
- onnx (.onnx): the graph, for a batch of any size; needs the packages of `pip install 'vgg_dist[export]'`.
- torch-export (.pt2): the graph as torch.export.load reads it, for a batch of any size.

No file contains the preprocessing as arithmetic: each net takes (pixel - mean) / std with its own mean and std, which are
printed, and written into the file.

The file is read back and compared with the net on random images; a file that gives other logits is not kept.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipelines.cli import run_command
from vgg_dist.config.base import LAST, check_checkpoint
from vgg_dist.config.suggestions import suggestions

SUFFIXES = {"torchvision": ".pth", "safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained net for other tools."""

    net: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_FILE")]
    """A run's folder, a checkpoint, a weights file, or torchvision://VGG19_Weights.IMAGENET1K_V1."""
    format: Literal["torchvision", "safetensors", "onnx", "torch-export"]
    """What to write."""
    output: Path
    """File to write, with the suffix of its format: .pth, .safetensors, .onnx or .pt2."""
    checkpoint: str = LAST
    """Of a run: last, best (by validation error), or the number of a step."""
    weights_format: Literal["torchvision", "caffe", "safetensors"] | None = None
    """What a weights file is, where it does not say it itself."""

    def check(self) -> None:
        """ValueError, one line that names the flag, for an output that cannot be written."""
        check_checkpoint(self.checkpoint)
        if self.output.suffix != SUFFIXES[self.format]:
            raise ValueError(f"--output {self.output}: a file of --format {self.format} ends in {SUFFIXES[self.format]}")
        if not self.output.parent.is_dir():
            raise ValueError(f"--output {self.output}: there is no folder {self.output.parent}")


def main(prog: str = "python -m vgg_dist.export") -> None:
    """The command line."""
    status = run_command(
        prog,
        lambda: tyro.cli(ExportConfig, prog=prog, description=__doc__),
        export,
        improve=suggestions(ExportConfig),
    )
    sys.exit(status)


def export(config: ExportConfig) -> None:
    """Writes the file and prints what the net takes. ValueError or OSError, one line, for what stops it."""
    config.check()
    # Imported here, so that neither --help nor the message of a mistake waits for torch.
    from vgg_dist.weights.formats import write_net
    from vgg_dist.weights.load import load_net

    net = load_net(config.net, config.weights_format, config.checkpoint)
    difference, largest = write_net(net, config.format, config.output)
    size = f"(N, {len(net.mean)}, {net.image_size}, {net.image_size})"
    pixels = f"{'grey' if len(net.mean) == 1 else 'RGB'} pixels 0 to 255"
    print(f"{config.output}: {net.arch}, {net.num_classes} classes{f'; {net.origin}' if net.origin else ''}")
    print(f"read back, its logits differ by at most {difference:.1e}; the largest is {largest:.1e}")
    print(f"it takes {size}: (pixel - mean) / std of {pixels}, mean {net.mean}, std {net.std}")


if __name__ == "__main__":
    main()
