"""Loads a trained net with its preprocessing, from any kind of file.

`load_net` reads a run or checkpoint of this project; an exported file (`python -m vgg_dist.export`), which describes its
net; and, if --weights-format says which, weights from elsewhere:

- torchvision: a state dict of one of torchvision's eight VGGs, or `torchvision://VGG19_Weights.IMAGENET1K_V1` by name.
- caffe: the authors' released D and E as converted for PyTorch (keys as torchvision's, of either numbering of the FC
  layers), which take BGR. conv1_1's input channels are put in RGB order, so that every net here takes RGB.

What other tools put around a net's weights is removed (see `files`). Pickled files are read with `weights_only=True`, so no
file can run code.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines.paths import absolute
from vgg_dist.config.base import LAST
from vgg_dist.models.specs import MODELS
from vgg_dist.run_folder.choice import local_checkpoint
from vgg_dist.weights.checkpoint import CONFIG, read_description, read_weights
from vgg_dist.weights.files import SUFFIXES, local_file, one_line, plain_weights, read_weights_file, unwrap
from vgg_dist.weights.foreign import ORIGINS, TORCHVISION_URL, load_by_name, load_foreign
from vgg_dist.weights.net import NetDescription, TrainedNet, assemble

FORMATS = ("torchvision", "caffe", "safetensors")


def load_net(location: str, weights_format: str | None = None, checkpoint: str = LAST) -> TrainedNet:
    """The net at a location: a run's folder or checkpoint, a weights file (paths or URLs), or torchvision's by name.

    `checkpoint`: which one of a run: "last", "best" or a step. `weights_format`, one of FORMATS, is for files that do not
    describe their net; checkpoints and exported files ignore it. ValueError, one line that names the file and what is
    allowed, if the file is missing, damaged, of no known net, has other tensors than its net, or holds more than weights.
    """
    if weights_format is not None and weights_format not in FORMATS:
        raise ValueError(f"--weights-format {weights_format} is unknown; allowed: {', '.join(FORMATS)}")
    if location.startswith(TORCHVISION_URL):
        return load_by_name(location)
    path = absolute(location)
    if path.endswith(SUFFIXES) or Path(path).is_file():
        with local_file(location) as file:
            return _load_file(file, location, weights_format)
    with local_checkpoint(location, "net", checkpoint) as chosen:
        config, class_names = read_description(chosen.folder)
        spec, scale = MODELS[config.arch], config.train_scale
        description = NetDescription(
            name=config.name or Path(location).name,
            arch=config.arch,
            batch_norm=config.batch_norm,
            head=config.head,
            width=config.width,
            image_size=config.image_size or spec.image_size,
            num_classes=len(class_names),
            train_scale=None if scale is None else scale.ends,
            class_names=class_names,
            mean=spec.pixel_mean,
            std=spec.pixel_std,
            checkpoint=str(chosen),
        )
        net = assemble(location, read_weights(chosen.folder), description)
        return replace(net, data=config.data, label=chosen.label, hint=chosen.hint)


def _load_file(file: Path, location: str, weights_format: str | None) -> TrainedNet:
    """The net in a weights file on this machine; `location` is what the user calls it."""
    content, description = read_weights_file(file, location)
    if description is not None:
        try:
            parsed = NetDescription.from_json(description)
        except (TypeError, LookupError, ValueError) as error:
            raise ValueError(f"{location}: the description of its net is damaged: {one_line(error)}") from error
        return assemble(location, plain_weights(location, content), parsed)
    if weights_format in ORIGINS:
        return load_foreign(location, unwrap(location, content), ORIGINS[weights_format], file.stem)
    # A file of a checkpoint does not describe its net; the checkpoint's folder does.
    other = f"give the folder {file.parent}" if (file.parent / CONFIG).exists() else "give a run's folder, an exported file"
    raise ValueError(f"{location}: does not say what its net is and takes; {other} or --weights-format torchvision or caffe")
