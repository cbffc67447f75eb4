"""Posteriors on storage, computed once for each net, view and scale. Every table of the paper is a mean over them.

    <evaluation>/images.json                 the images: names, labels, class names, and a digest of these
    <evaluation>/<net>-<digest>/<view>-<Q>/manifest.json, part-00000.npy, part-00001.npy, ...

A part holds the posteriors of PART images, and is written whole or not at all. So an evaluation that was killed resumes, on
any number of workers, with the same numbers. After the array, where NumPy stops reading, come DIGEST_MARK and the SHA-256 of
the bytes before it; parts written by earlier versions have neither.

A posterior p is stored as float16(p * 2**15): 11 significant bits down to 2e-9. Rounding keeps the order, but may make
different values equal. Where that affects the five most probable classes, they are raised by one unit in the last place
each. So the five, and their order, are those of the float32 values; of equal values the lower class comes first.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.failures import what_failed
from pipelines.paths import join
from pipelines.stores.sample_store import SampleStore
from vgg_dist.storage import list_folder, read_file, replace_file

PART = 256  # images
SCALE = np.float32(2**15)
TOP = 5
DIGEST_MARK, DIGEST_BYTES = b"sha256:", 32

IMAGES, MANIFEST = "images.json", "manifest.json"


def encode(posteriors: NDArray[np.float32]) -> NDArray[np.float16]:
    """(n, num_classes) posteriors as they are stored, in float16: see the module's docstring."""
    kept = (posteriors * SCALE).astype(np.float16)
    count = min(TOP + 1, posteriors.shape[1])
    best = np.argsort(-posteriors, axis=1, kind="stable")[:, :count]
    rounded = np.take_along_axis(kept, best, 1)
    for rank in range(count - 2, -1, -1):  # from the fifth up: one may push the next
        rounded[:, rank] = np.maximum(rounded[:, rank], np.nextafter(rounded[:, rank + 1], np.float16(np.inf)))
    np.put_along_axis(kept, best, rounded, 1)
    return kept


def decode(kept: NDArray[np.float16]) -> NDArray[np.float32]:
    """The inverse of `encode`, up to rounding."""
    return kept.astype(np.float32) / SCALE


@dataclass(frozen=True)
class ImageSet:
    """The images of an evaluation, in order. A label is -1 where the class is not known."""

    names: list[str]
    labels: list[int]
    class_names: list[str]
    digest: str

    @classmethod
    def of(cls, store: SampleStore, class_names: Sequence[str]) -> ImageSet:
        """A store's images. `class_names`: the classes of its labels, and of the columns of posteriors."""
        names = [store.name(index) for index in range(len(store))]
        lengths = [store.length(index) for index in range(len(store))]
        text = json.dumps([names, lengths, store.labels.tolist(), list(class_names)])
        return cls(names, store.labels.tolist(), list(class_names), hashlib.sha256(text.encode()).hexdigest())

    def keep(self, folder: str) -> None:
        """Writes it into an evaluation's folder. ValueError, one line, where that holds other images or classes."""
        file = join(folder, IMAGES)
        found = read_file(file)
        if found is None:
            replace_file(file, json.dumps(asdict(self)).encode())
            return
        try:
            other = ImageSet(**json.loads(found))
            if other.digest == self.digest and other != self:
                raise ValueError("its names or labels are not those of its digest")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({what_failed(error)}): remove {folder} or give another --name") from error
        if other.digest != self.digest:
            what = f"{len(other.names)} images of {len(other.class_names)} classes"
            if (len(other.names), len(other.class_names)) == (len(self.names), len(self.class_names)):
                what += " that are not these"
            else:
                what += f", not {len(self.names)} of {len(self.class_names)}"
            raise ValueError(f"{folder} holds posteriors of {what}: give another --name, or the same --data")


@dataclass(frozen=True)
class Manifest:
    """Describes the parts in the same folder. `settings`: those that affect the numbers."""

    net: str
    net_digest: str
    view: str
    scale: int
    images_digest: str
    num_images: int
    num_classes: int
    settings: Mapping[str, object]


class PosteriorFiles:
    """The posteriors of one net at one scale in one view."""

    def __init__(self, folder: str, manifest: Manifest) -> None:
        self.manifest = manifest
        self.folder = join(folder, f"{manifest.net}-{manifest.net_digest[:12]}/{manifest.view}-{manifest.scale}")

    @property
    def num_parts(self) -> int:
        """The number of parts of all images."""
        return -(-self.manifest.num_images // PART)

    def indices(self, part: int) -> NDArray[np.int64]:
        """The indices of a part's images."""
        return np.arange(part * PART, min((part + 1) * PART, self.manifest.num_images))

    def missing(self) -> list[int]:
        """The numbers of the parts still to be computed; creates the folder if there is none.

        ValueError, one line, where the folder holds posteriors of other settings or images.
        """
        file = join(self.folder, MANIFEST)
        found, own = read_file(file), json.dumps(asdict(self.manifest), indent=1)
        if found is None:
            replace_file(file, own.encode())
            return list(range(self.num_parts))
        try:
            theirs, ours = dict(json.loads(found)), json.loads(own)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file} is damaged ({what_failed(error)}): remove {self.folder} or give another --name"
            ) from error
        if theirs != ours:
            differing = ", ".join(
                f"{key} {theirs.get(key)}, not {ours[key]}" for key in ours if theirs.get(key) != ours[key]
            )
            raise ValueError(
                f"{self.folder} was computed with other settings: {differing}; give another --name, or remove it"
            )
        there = set(list_folder(self.folder))
        return [part for part in range(self.num_parts) if _part_name(part) not in there]

    def write(self, part: int, posteriors: NDArray[np.float32]) -> None:
        """Writes a part, whole or not at all. OSError from the storage; ValueError for posteriors that are not finite."""
        if not np.isfinite(posteriors).all():
            raise ValueError(
                f"{self.manifest.net}: its posteriors are not finite; check the weights, or try --precision fp32"
            )
        stream = io.BytesIO()
        np.save(stream, encode(posteriors), allow_pickle=False)
        content = stream.getvalue()
        replace_file(join(self.folder, _part_name(part)), content + DIGEST_MARK + hashlib.sha256(content).digest())

    def read(self) -> NDArray[np.float32]:
        """The posteriors of all images, (num_images, num_classes). ValueError, one line, for a missing or damaged part."""
        out = np.empty((self.manifest.num_images, self.manifest.num_classes), np.float32)
        for part in range(self.num_parts):
            file, rows = join(self.folder, _part_name(part)), self.indices(part)
            content = read_file(file)
            if content is None:
                raise ValueError(f"{file} is missing: run the evaluation again")
            try:
                kept = _array(content)
            except Exception as error:  # NumPy raises many kinds for a damaged header
                raise ValueError(
                    f"{file} is damaged ({what_failed(error)}): remove it and run the evaluation again"
                ) from error
            if kept.shape != (len(rows), self.manifest.num_classes) or kept.dtype != np.float16:
                wanted = (len(rows), self.manifest.num_classes)
                raise ValueError(f"{file} holds {kept.dtype} {kept.shape}, not float16 {wanted}: remove it")
            out[rows] = decode(kept)
        return out


def _part_name(part: int) -> str:
    return f"part-{part:05d}.npy"


def _array(content: bytes) -> NDArray[np.float16]:
    """A part's array. ValueError, or another exception of NumPy's, where the digest differs or it is not an array."""
    trailer = len(DIGEST_MARK) + DIGEST_BYTES
    if content[-trailer:-DIGEST_BYTES] == DIGEST_MARK:
        content, digest = content[:-trailer], content[-DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("its digest differs")
    stream = io.BytesIO(content)
    kept = np.load(stream, allow_pickle=False)
    if stream.tell() != len(content):
        raise ValueError("it has bytes after the array and its digest")
    return kept
