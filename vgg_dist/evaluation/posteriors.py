"""Posteriors on storage: computed once for each net, scale and view; every table of the paper is a mean over them.

    <run>/images.json                        which images: names, labels, class names, and a digest of it all
    <run>/<net>-<digest>/<view>-<Q>/manifest.json, part-00000.npy, part-00001.npy, ...

A part holds the posteriors of PART images, whoever computed it, and is written whole or not at all. So an evaluation that
was killed goes on where it was, on any number of workers, with the same numbers. Behind the array, where NumPy reads no
further, lie DIGEST_MARK and the SHA-256 of all before them; parts of earlier versions of this code have none.

A posterior p is kept as float16(p * 2**15): 11 significant bits down to 2e-9. Rounding keeps the order but may make equal
what was not; where that touches the five most probable classes, they are moved up by a unit in the last place each. So the
five, and their order, are those of the float32 values (of equal ones the first class comes first).
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
    """As kept: (n, num_classes) in [0, 1] to float16. See the module's docstring."""
    kept = (posteriors * SCALE).astype(np.float16)
    count = min(TOP + 1, posteriors.shape[1])
    best = np.argsort(-posteriors, axis=1, kind="stable")[:, :count]
    rounded = np.take_along_axis(kept, best, 1)
    for rank in range(count - 2, -1, -1):  # from the fifth up: one may push the next
        rounded[:, rank] = np.maximum(rounded[:, rank], np.nextafter(rounded[:, rank + 1], np.float16(np.inf)))
    np.put_along_axis(kept, best, rounded, 1)
    return kept


def decode(kept: NDArray[np.float16]) -> NDArray[np.float32]:
    """The inverse of `encode`, to its precision."""
    return kept.astype(np.float32) / SCALE


@dataclass(frozen=True)
class ImageSet:
    """Which images were evaluated, in order. `labels`: -1 where it is not known."""

    names: list[str]
    labels: list[int]
    class_names: list[str]
    digest: str

    @classmethod
    def of(cls, store: SampleStore, class_names: Sequence[str]) -> ImageSet:
        """A store's images. `class_names`: what its labels, and the columns of posteriors, stand for."""
        names = [store.name(index) for index in range(len(store))]
        lengths = [store.length(index) for index in range(len(store))]
        text = json.dumps([names, lengths, store.labels.tolist(), list(class_names)])
        return cls(names, store.labels.tolist(), list(class_names), hashlib.sha256(text.encode()).hexdigest())

    def keep(self, folder: str) -> None:
        """Writes it into an evaluation's folder. ValueError, one line, if that one is about other images or classes."""
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
    """What the parts beside it are. `settings`: how they were computed, as far as it changes them."""

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
        """How many parts make the whole."""
        return -(-self.manifest.num_images // PART)

    def indices(self, part: int) -> NDArray[np.int64]:
        """The images of a part."""
        return np.arange(part * PART, min((part + 1) * PART, self.manifest.num_images))

    def missing(self) -> list[int]:
        """Starts the folder if it is not there; the parts that are still to be computed.

        ValueError, one line, if what is there was computed with other settings, or for other images.
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
            raise ValueError(f"{self.folder} was computed otherwise: {differing}; give another --name, or remove it")
        there = set(list_folder(self.folder))
        return [part for part in range(self.num_parts) if _part_name(part) not in there]

    def write(self, part: int, posteriors: NDArray[np.float32]) -> None:
        """One part, whole. Storage errors as OSError; ValueError for posteriors that are not finite."""
        if not np.isfinite(posteriors).all():
            raise ValueError(f"{self.manifest.net}: its posteriors are not finite; the weights or --precision are at fault")
        stream = io.BytesIO()
        np.save(stream, encode(posteriors), allow_pickle=False)
        content = stream.getvalue()
        replace_file(join(self.folder, _part_name(part)), content + DIGEST_MARK + hashlib.sha256(content).digest())

    def read(self) -> NDArray[np.float32]:
        """All of it: (num_images, num_classes). ValueError, one line, if a part is missing or damaged."""
        out = np.empty((self.manifest.num_images, self.manifest.num_classes), np.float32)
        for part in range(self.num_parts):
            file, rows = join(self.folder, _part_name(part)), self.indices(part)
            content = read_file(file)
            if content is None:
                raise ValueError(f"{file} is not there: run the evaluation again")
            try:
                kept = _array(content)
            except Exception as error:  # NumPy's parser of headers has many kinds for a damaged file
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
    """A part's array. ValueError, or another of NumPy's, where its digest is another or it is no array."""
    trailer = len(DIGEST_MARK) + DIGEST_BYTES
    if content[-trailer:-DIGEST_BYTES] == DIGEST_MARK:
        content, digest = content[:-trailer], content[-DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("its content is not what was written")
    stream = io.BytesIO(content)
    kept = np.load(stream, allow_pickle=False)
    if stream.tell() != len(content):
        raise ValueError("there is more in it than an array and its digest")
    return kept
