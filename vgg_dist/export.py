"""Write a trained net for other tools: torchvision, safetensors, ONNX, torch.export.

    python -m vgg_dist.export runs/e-256 --format onnx --output e-256.onnx
    python -m vgg_dist.export vgg16-00b39a1b.pth --weights-format caffe --format safetensors --output vgg16.safetensors

- torchvision (.pth): a state dict that torchvision's own vgg11 to vgg19_bn take with strict=True.
- safetensors (.safetensors): the state dict.
- onnx (.onnx): the graph, for a batch of any size; needs the packages of `pip install 'vgg_dist[export]'`.
- torch-export (.pt2): the graph as torch.export.load reads it, for a batch of any size.

No file contains the preprocessing as arithmetic: each net takes (pixel - mean) / std of its own mean and std. Folding the
difference from torchvision's preset into conv1_1 would be wrong at the image's edge, where the padding stands for the mean.
So what a net takes is printed, and written into the file as JSON under "vgg_dist": in the metadata of safetensors and ONNX
files, the extra files of torch.export, the state dict's `_metadata` of torchvision files. weights.load_net reads it there.

What was written is read back and compared with the net on random images; a file that differs is not kept.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

from pipelines.cli import fail, one_line_errors
from vgg_dist.config.base import LAST, check_checkpoint
from vgg_dist.config.suggestions import suggestions

if TYPE_CHECKING:  # torch takes seconds to import, and --help and mistakes need it not
    from torch import Tensor

    from vgg_dist.weights.net import TrainedNet

    Logits: TypeAlias = Callable[[Tensor], Tensor]

SUFFIXES = {"torchvision": ".pth", "safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}

# Largest difference of two logits, relative to the largest logit, that rounding explains; in practice it is 1e-6.
ROUND_OFF = 1e-4


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
        """ValueError, one line that names the flag, for an output that cannot be."""
        check_checkpoint(self.checkpoint)
        if self.output.suffix != SUFFIXES[self.format]:
            raise ValueError(f"--output {self.output}: a file of --format {self.format} ends in {SUFFIXES[self.format]}")
        if not self.output.parent.is_dir():
            raise ValueError(f"--output {self.output}: there is no folder {self.output.parent}")


def main() -> None:
    """The command line."""
    with one_line_errors("vgg_dist.export", suggestions(ExportConfig)):
        config = tyro.cli(ExportConfig, prog="python -m vgg_dist.export", description=__doc__)
    try:
        config.check()
        from vgg_dist.weights.load import load_net

        net = load_net(config.net, config.weights_format, config.checkpoint)
        difference, largest = export(net, config.format, config.output)
    except (ValueError, OSError) as error:
        fail("vgg_dist.export", error)
    size = f"(N, {len(net.mean)}, {net.image_size}, {net.image_size})"
    pixels = f"{'grey' if len(net.mean) == 1 else 'RGB'} pixels 0 to 255"
    print(f"{config.output}: {net.arch}, {net.num_classes} classes{f'; {net.origin}' if net.origin else ''}")
    print(f"read back, its logits differ by at most {difference:.1e}; the largest is {largest:.1e}")
    print(f"it takes {size}: (pixel - mean) / std of {pixels}, mean {net.mean}, std {net.std}")


def export(net: TrainedNet, format: str, output: Path) -> tuple[float, float]:
    """Writes the net, reads it back, and returns how much its logits of random images differ at most, and the largest one.

    `output` appears when all is well, in place of a file that may be there. ValueError, one line, for a net that has no
    such form, packages that are missing, or a file that gives other logits; OSError where it cannot be written.
    """
    from safetensors import SafetensorError

    write, read = {
        "torchvision": (_write_torchvision, _read_torchvision),
        "safetensors": (_write_safetensors, _read_weights),
        "onnx": (_write_onnx, _read_onnx),
        "torch-export": (_write_torch_export, _read_torch_export),
    }[format]
    unfinished = output.with_name(f".unfinished-{output.name}")
    try:
        try:
            write(net, unfinished)
        except (OSError, RuntimeError, SafetensorError) as error:  # libraries have kinds of their own for a full disk
            raise OSError(f"--output {output}: cannot be written: {error}") from error
        compared = _compare(net, read(net, unfinished))
        os.replace(unfinished, output)
    finally:
        unfinished.unlink(missing_ok=True)
    return compared


def _compare(net: TrainedNet, exported: Logits) -> tuple[float, float]:
    """Largest difference and largest logit, absolute, of random images in batches of one and of three.

    ValueError if rounding cannot explain the difference.
    """
    import torch

    difference, largest = 0.0, 0.0
    for batch in (1, 3):
        images = _random_images(net, batch)
        with torch.no_grad():
            expected = net.model(images)
            difference = max(difference, (exported(images) - expected).abs().max().item())
            largest = max(largest, expected.abs().max().item())
    if not difference <= ROUND_OFF * largest:  # not `>`: NaN is refused too
        raise ValueError(f"{net.name}: read back, its logits differ by {difference:.1e} where the largest is {largest:.1e}")
    return difference, largest


def _random_images(net: TrainedNet, batch: int) -> Tensor:
    """(batch, C, H, W) of noise, as the net takes it."""
    import torch

    shape = (batch, len(net.mean), net.image_size, net.image_size)
    pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(batch)).float()
    return (pixels - torch.tensor(net.mean).view(-1, 1, 1)) / torch.tensor(net.std).view(-1, 1, 1)


def _write_torchvision(net: TrainedNet, file: Path) -> None:
    import torch

    from vgg_dist.weights.files import METADATA_KEY
    from vgg_dist.weights.foreign import TORCHVISION_NETS

    # Its nets average the last map to 7x7 in front of the FC layers, which changes nothing at 224 pixels only.
    if (net.arch, net.batch_norm) not in TORCHVISION_NETS or net.head != "fc" or net.model.map_size != 7:
        raise ValueError(
            f"--format torchvision: {net.name} is {net.arch} with head {net.head} for {net.image_size} pixels; allowed:"
            " A, B, D, E, with batch norm or without, with head fc for 224 pixels"
        )
    weights = net.model.state_dict()
    # The keys in there are names of modules; one that is of none is not looked at by load_state_dict.
    vars(weights)["_metadata"][METADATA_KEY] = net.to_json()
    content = io.BytesIO()  # not the file: on a full disk torch's own writer ends the process
    torch.save(weights, content)
    file.write_bytes(content.getbuffer())


def _read_torchvision(net: TrainedNet, file: Path) -> Logits:
    import torch
    import torchvision

    from vgg_dist.weights.foreign import TORCHVISION_NETS

    _read_weights(net, file)
    with torch.device("meta"):
        model = getattr(torchvision.models, TORCHVISION_NETS[net.arch, net.batch_norm])(num_classes=net.num_classes)
    model.load_state_dict(torch.load(file, weights_only=True), strict=True, assign=True)
    return model.eval()


def _write_safetensors(net: TrainedNet, file: Path) -> None:
    from safetensors.torch import save_file

    from vgg_dist.weights.files import METADATA_KEY

    save_file(net.model.state_dict(), file, metadata={"format": "pt", METADATA_KEY: net.to_json()})


def _read_weights(net: TrainedNet, file: Path) -> Logits:
    from vgg_dist.weights.load import load_net

    again = load_net(str(file))
    if (again.digest, again.to_json()) != (net.digest, net.to_json()):
        raise ValueError(f"{net.name}: read back, its weights or preprocessing are not what was written")
    return again.model


def _write_onnx(net: TrainedNet, file: Path) -> None:
    import torch

    from vgg_dist.weights.files import METADATA_KEY

    if missing := [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]:
        raise ValueError(f"--format onnx: needs {' and '.join(missing)}; install the extra: pip install 'vgg_dist[export]'")
    program = torch.onnx.export(
        net.model,
        (_random_images(net, 2),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[METADATA_KEY] = net.to_json()
    program.save(file, external_data=False)


def _read_onnx(net: TrainedNet, file: Path) -> Logits:
    import torch

    if importlib.util.find_spec("onnxruntime") is not None:
        from onnxruntime import InferenceSession

        run = InferenceSession(file, providers=["CPUExecutionProvider"]).run
    else:  # where it has no build: ONNX's own evaluator, in NumPy, minutes for a large net
        from onnx.reference import ReferenceEvaluator

        run = ReferenceEvaluator(str(file)).run
    return lambda images: torch.from_numpy(run(None, {"images": images.numpy()})[0])


def _write_torch_export(net: TrainedNet, file: Path) -> None:
    import torch

    from vgg_dist.weights.files import METADATA_KEY

    batch = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(net.model, (_random_images(net, 2),), dynamic_shapes=batch)
    content = io.BytesIO()  # as in _write_torchvision
    torch.export.save(program, content, extra_files={METADATA_KEY: net.to_json()})
    file.write_bytes(content.getbuffer())


def _read_torch_export(net: TrainedNet, file: Path) -> Logits:
    import torch

    return torch.export.load(file).module()


if __name__ == "__main__":
    main()
