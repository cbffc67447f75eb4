"""Writes a trained net in the formats of other tools, and checks each file by reading it back.

No format holds the preprocessing as arithmetic: a net takes (pixel - mean) / std with its own mean and std. Folding the
difference from torchvision's preset into conv1_1 would be wrong at the image's edge, where padding stands for the mean. So
what a net takes is written into the file as JSON under "vgg_dist": in the metadata of safetensors and ONNX files, the extra
files of torch.export, and the state dict's `_metadata` of torchvision files. `weights.load.load_net` reads it from there.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vgg_dist.weights.files import METADATA_KEY
from vgg_dist.weights.foreign import TORCHVISION_NETS
from vgg_dist.weights.load import load_net
from vgg_dist.weights.net import TrainedNet

Logits: TypeAlias = Callable[[Tensor], Tensor]

# Largest difference of two logits, relative to the largest logit, that rounding explains; in practice it is 1e-6.
ROUND_OFF = 1e-4


def write_net(net: TrainedNet, format: str, output: Path) -> tuple[float, float]:
    """Writes a net as torchvision, safetensors, onnx or torch-export, and compares what is read back on random images.

    Returns the largest difference of two logits, and the largest logit, absolute. `output` appears, in place of a file of
    that name, only after the comparison. ValueError, one line, for a net that the format cannot hold, missing packages, or
    a file that gives other logits; OSError where the file cannot be written.
    """
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
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is a different error in each library
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
    """(batch, C, H, W) of random pixels, normalised as the net expects it."""
    shape = (batch, len(net.mean), net.image_size, net.image_size)
    pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(batch)).float()
    return (pixels - torch.tensor(net.mean).view(-1, 1, 1)) / torch.tensor(net.std).view(-1, 1, 1)


def _write_torchvision(net: TrainedNet, file: Path) -> None:
    # torchvision's nets pool the last feature map to 7x7 before the FC layers: a no-op only where it is 7x7, at 224 pixels.
    if (net.arch, net.batch_norm) not in TORCHVISION_NETS or (net.head, net.width, net.model.map_size) != ("fc", 1, 7):
        raise ValueError(
            f"--format torchvision: {net.name} is {net.arch} with head {net.head} and width {net.width:g} for"
            f" {net.image_size} pixels; allowed: A, B, D, E, with batch norm or without, with head fc and width 1 for 224"
            " pixels"
        )
    weights = net.model.state_dict()
    # The keys of _metadata are names of modules; load_state_dict ignores others.
    vars(weights)["_metadata"][METADATA_KEY] = net.to_json()
    content = io.BytesIO()  # not the file: on a full disk torch's own writer aborts the process
    torch.save(weights, content)
    file.write_bytes(content.getbuffer())


def _read_torchvision(net: TrainedNet, file: Path) -> Logits:
    _read_weights(net, file)
    with torch.device("meta"):
        model = getattr(torchvision.models, TORCHVISION_NETS[net.arch, net.batch_norm])(num_classes=net.num_classes)
    model.load_state_dict(torch.load(file, weights_only=True), strict=True, assign=True)
    return model.eval()


def _write_safetensors(net: TrainedNet, file: Path) -> None:
    save_file(net.model.state_dict(), file, metadata={"format": "pt", METADATA_KEY: net.to_json()})


def _read_weights(net: TrainedNet, file: Path) -> Logits:
    again = load_net(str(file))
    if (again.digest, again.to_json()) != (net.digest, net.to_json()):
        raise ValueError(f"{net.name}: read back, its weights or preprocessing are not what was written")
    return again.model


def _write_onnx(net: TrainedNet, file: Path) -> None:
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
    if importlib.util.find_spec("onnxruntime") is not None:
        from onnxruntime import InferenceSession

        run = InferenceSession(file, providers=["CPUExecutionProvider"]).run
    else:  # no build for this Python: ONNX's own evaluator, in NumPy, takes minutes for a large net
        from onnx.reference import ReferenceEvaluator

        run = ReferenceEvaluator(str(file)).run
    return lambda images: torch.from_numpy(run(None, {"images": images.numpy()})[0])


def _write_torch_export(net: TrainedNet, file: Path) -> None:
    batch = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(net.model, (_random_images(net, 2),), dynamic_shapes=batch)
    content = io.BytesIO()  # as in _write_torchvision
    torch.export.save(program, content, extra_files={METADATA_KEY: net.to_json()})
    file.write_bytes(content.getbuffer())


def _read_torch_export(net: TrainedNet, file: Path) -> Logits:
    return torch.export.load(file).module()
