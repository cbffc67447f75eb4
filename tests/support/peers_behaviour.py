"""What torchvision, timm and webdataset do with files that mislead: the peers' columns of docs/behaviour-of-peers.md.

    python tests/support/peers_behaviour.py            # the peers that are installed
    pip install --no-deps timm webdataset      # those that are not part of this project

Prints a line for each situation and peer. Folders are read by torchvision's ImageFolder and timm's create_dataset, tars of
the same files by webdataset's WebDataset(...).decode("rgb8"), which has no folders.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from support.misleading_files import FOLDERS, tars

Samples = Callable[[Path], list[str]]


# --- how each peer reads a folder: what came out of it, in a line


def torchvision_folder(root: Path) -> list[str]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Resize

    dataset = ImageFolder(str(root))
    said = [f"{len(dataset)} images, classes {' '.join(map(ascii, dataset.classes))}"]
    return [*said, *(each(lambda k=k: dataset[k][0], Resize(256)) for k in range(min(4, len(dataset))))]


def timm_folder(root: Path) -> list[str]:
    from timm.data import create_dataset
    from torchvision.transforms import Resize

    dataset = create_dataset("", root=str(root))
    classes = sorted(dataset.reader.class_to_idx, key=dataset.reader.class_to_idx.get)
    said = [f"{len(dataset)} images, classes {' '.join(map(ascii, classes))}"]
    return [*said, *(each(lambda k=k: dataset[k][0], Resize(256)) for k in range(min(4, len(dataset))))]


def webdataset_tar(path: Path) -> list[str]:
    import webdataset

    if path.is_dir():
        root, path = path, path.with_suffix(".tar")
        with tarfile.open(path, "w") as tar:
            for file in sorted(root.rglob("*"), key=str):
                if not file.is_dir() or file.is_symlink():
                    tar.add(file, file.relative_to(root))
    said = []
    for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8"):
        decoded = [f"{key} {shown(value)}" for key, value in sample.items() if not key.startswith("__")]
        said.append(f"{sample['__key__']!a}: {', '.join(decoded)}")
    return [f"{len(said)} samples", *said[:4]]


def each(read: Callable[[], Image.Image], transform: Callable[[Image.Image], Image.Image]) -> str:
    try:
        image = read()
        text = shown(np.asarray(image))
        resized = transform(image)
        return f"{text}, rescaled {resized.width} x {resized.height}"
    except Exception as error:  # what came out is what is asked
        return what(error)


def shown(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return f"{type(value).__name__} of {len(value)}" if isinstance(value, bytes) else ascii(value)
    return f"{'x'.join(map(str, value.shape))} mean {value.mean(dtype=np.float64):.1f}"


def what(error: Exception) -> str:
    """Its kind and first line; of an exception that says nothing, those of its cause."""
    if not str(error) and isinstance(error.__context__, Exception):
        return f"{type(error).__name__}, {what(error.__context__)}"
    return f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"


def timm_tar(path: Path) -> list[str]:
    from timm.data import create_dataset

    (path.parent / path.stem).mkdir()
    shutil.copy(path, path.parent / path.stem / "cat.tar")
    dataset = create_dataset("", root=str(path.parent / path.stem / "cat.tar"))
    return [f"{len(dataset)} images", *(shown(np.asarray(dataset[k][0])) for k in range(len(dataset)))]


# --- weights


def weights(peer: str, folder: Path) -> dict[str, str]:
    """A flipped bit in the middle of the file, and wrapped keys."""
    if peer == "webdataset":
        return {}
    module = importlib.import_module("torchvision.models" if peer == "torchvision" else "timm")
    model = module.vgg11(num_classes=3) if peer == "torchvision" else module.create_model("vgg11", num_classes=3)
    state = {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}
    torch.save(state, folder / "wrapped.pth")
    torch.save(model.state_dict(), folder / "flipped.pth")
    content = bytearray((folder / "flipped.pth").read_bytes())
    content[len(content) // 2] ^= 64
    (folder / "flipped.pth").write_bytes(content)
    found = {}
    for situation, file in (
        ("a flipped bit in the weights", "flipped.pth"),
        ("module. and state_dict in weights", "wrapped.pth"),
    ):
        try:
            if peer == "timm":
                module.models.load_checkpoint(model, str(folder / file))
            else:
                model.load_state_dict(torch.load(folder / file, weights_only=True))
            found[situation] = "loaded without a word"
        except Exception as error:  # as above
            found[situation] = what(error)
    return found


def main() -> None:
    logging.basicConfig(format="    logged: %(message)s", stream=sys.stdout)
    warnings.showwarning = lambda message, kind, *_: print(f"    warned: {kind.__name__}: {message}")  # type: ignore[assignment]
    folders = {"torchvision": torchvision_folder, "timm": timm_folder, "webdataset": webdataset_tar}
    of_tar: dict[str, Samples] = {"timm": timm_tar, "webdataset": webdataset_tar}
    for peer, read in folders.items():
        try:
            print(f"\n## {peer} {importlib.import_module(peer).__version__}, Pillow {Image.__version__}")
        except ImportError as error:
            print(f"\n## {peer}: {error}")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            tried: dict[str, Callable[[], list[str]]] = {}
            for number, (situation, make) in enumerate(FOLDERS.items()):
                root = Path(scratch) / str(number)
                root.mkdir()
                make(root)
                tried[situation] = lambda root=root, read=read: read(root)  # type: ignore[misc]
            for situation, tar in tars(Path(scratch)).items():
                if peer in of_tar:
                    tried[situation] = lambda tar=tar, read=of_tar[peer]: read(tar)  # type: ignore[misc]
            for situation, attempt in tried.items():
                print(f"{situation}:", flush=True)
                try:
                    print("".join(f"    {line}\n" for line in attempt()), end="", flush=True)
                except Exception as error:  # as above
                    print(f"    {what(error)}")
            for situation, outcome in weights(peer, Path(scratch)).items():
                print(f"{situation}:\n    {outcome}")


if __name__ == "__main__":
    main()
