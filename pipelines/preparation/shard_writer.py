"""Writes one split of any store as tar shards.

For `train`, the folder then contains:

- `train-00000.tar`, ...: plain ustar with two adjacent members per sample, the image `<class>/<stem>.jpg` and its label as
  text, `<class>/<stem>.cls`, which the webdataset package can read. Samples are shuffled once, for readers that read a shard
  in order.
- `train-00000.idx`, ...: DALI's index of each tar, version 1.2, for `fn.readers.webdataset`.
- `train.index.npz`: the index of the whole split, which `pipelines.stores.shards` reads. It is written last; without it the
  split does not exist.

The store and the seed determine where each sample goes before anything is written, so an interrupted run resumes at the
first incomplete tar. Until the run is complete, `train.writing` holds its fingerprint.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipelines.progress import Progress
from pipelines.remote import size_of, write_atomically
from pipelines.stores.image_header import image_size
from pipelines.stores.sample_store import Names, SampleStore
from pipelines.stores.shard_files import ShardFolder
from pipelines.stores.shard_index import ShardIndex
from pipelines.stores.shards import ShardStore

BLOCK = 512
_END_OF_TAR = bytes(2 * BLOCK)
_JPEG = (".jpeg", ".jpe", ".jfif")
_MAX_KEY_BYTES = 90  # with an extension, it fits the 100 bytes of a tar header's name field


def write_shards(store: SampleStore, split: str, out: Path, *, shard_bytes: int, seed: int, threads: int = 8) -> ShardIndex:
    """Writes `store` as the shards of `split` into the folder `out`.

    `shard_bytes`: the size of a tar, exceeded by at most one sample. Resumes an interrupted call with the same arguments; a
    no-op if that call was complete. Returns the index; after a no-op it lacks the image sizes. Raises ValueError if `out`
    has other shards of the split, OSError if a sample cannot be read or the disk is full.
    """
    with ThreadPoolExecutor(threads) as pool, Progress(total=len(store), desc=f"{split} shards", unit="image") as progress:
        order, plan = plan_shards(store, split, pool, shard_bytes=shard_bytes, seed=seed)
        if not _begin(out, split, plan):
            progress.update(len(store))
            return plan
        written = ShardStore(plan, ShardFolder(str(out)))
        for shard, tar in enumerate(plan.shard_names):
            rows = np.flatnonzero(plan.shard == shard)
            if size_of(str(out / tar)) == plan.shard_bytes[shard]:
                sizes = [_size(image) for image in _with_progress(pool.map(written.read, rows), progress)]
            else:
                encoded = _with_progress(pool.map(store.read, order[rows]), progress)
                sizes = _write_tar(out / tar, plan, rows, encoded)
            plan.height[rows], plan.width[rows] = np.array([size or (0, 0) for size in sizes]).T
    write_atomically(str(out / f"{split}.index.npz"), plan.to_bytes())
    (out / f"{split}.writing").unlink()
    return plan


def _with_progress(images: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for image in images:
        yield image
        progress.update()


def plan_shards(
    store: SampleStore, split: str, pool: ThreadPoolExecutor, *, shard_bytes: int, seed: int
) -> tuple[np.ndarray, ShardIndex]:
    """Decides where each sample goes. Returns the order in which samples are written, and the index without image sizes."""
    # In chunks, because a million futures would take more memory than everything else here.
    chunks = np.array_split(np.arange(len(store)), len(store) // 1024 + 1)
    lengths = np.concatenate(list(pool.map(lambda chunk: [store.length(i) for i in chunk], chunks))).astype(np.int64)
    keys = member_keys(store)
    order = np.random.default_rng(seed).permutation(len(store))
    lengths, names = lengths[order], [keys[index] for index in order.tolist()]
    # A header and the padded image, then a header and the label.
    spans = BLOCK + _padded(lengths) + 2 * BLOCK
    ends = np.cumsum(spans)
    _, shard = np.unique((ends - spans) // shard_bytes, return_inverse=True)
    firsts = np.flatnonzero(np.diff(shard, prepend=-1))
    starts = (ends - spans)[firsts]
    plan = ShardIndex(
        class_names=store.class_names,
        shard_names=[f"{split}-{number:05d}.tar" for number in range(len(firsts))],
        shard_bytes=np.add.reduceat(spans, firsts) + len(_END_OF_TAR),
        shard=shard.astype(np.int32),
        offset=ends - spans - starts[shard] + BLOCK,
        length=lengths,
        label=store.labels[order].astype(np.int64),
        height=np.zeros(len(store), np.int32),
        width=np.zeros(len(store), np.int32),
        names=Names.of(names),
    )
    return order, plan


def member_keys(store: SampleStore) -> list[str]:
    """The name of each sample's image in the tar: `<class>/<stem>.<jpg|png|bmp|webp>`, unique without its extension.

    Dots and white space become `_`, because readers of such tars take the first dot of a file name as the start of the
    extension, and a blank as the end of the name.
    """
    taken: set[str] = set()
    keys = []
    for index, label in enumerate(store.labels.tolist()):
        stem, extension = os.path.splitext(re.split("[/:]", store.name(index))[-1])
        key = f"{_plain(store.class_names[label])}/{_plain(stem)}"
        if len(key.encode("utf-8", "surrogateescape")) > _MAX_KEY_BYTES or key in taken:
            key = f"{index:08d}"
        taken.add(key)
        suffix = extension.lower()
        keys.append(key + (".jpg" if suffix in _JPEG else suffix))
    return keys


def _size(image: bytes) -> tuple[int, int] | None:
    try:
        return image_size(image)
    except OSError:
        return None


def _plain(name: str) -> str:
    return re.sub(r"[.\s/]", "_", name)


def _padded(length: np.ndarray | int) -> np.ndarray | int:
    return (length + BLOCK - 1) // BLOCK * BLOCK


def _begin(out: Path, split: str, plan: ShardIndex) -> bool:
    """Marks the split as being written. False if exactly this plan is complete already; ValueError if another one is."""
    index, writing, fingerprint = out / f"{split}.index.npz", out / f"{split}.writing", plan.fingerprint()
    if index.exists():
        if ShardIndex.from_bytes(index.read_bytes(), str(index)).fingerprint() == fingerprint:
            return False
        raise ValueError(f"--out {out}: has other shards of {split} already ({index.name})")
    if writing.exists() and writing.read_text() != fingerprint:
        raise ValueError(
            f"--out {out}: has shards of an unfinished run with other images or settings: "
            f"repeat that command, or remove {split}-*.tar and {writing.name}"
        )
    if not writing.exists() and any(out.glob(f"{split}-*.tar")):
        raise ValueError(f"--out {out}: has {split}-*.tar already, without their index")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(str(writing), fingerprint.encode())
    return True


def _write_tar(path: Path, plan: ShardIndex, rows: np.ndarray, encoded: Iterable[bytes]) -> list[tuple[int, int] | None]:
    """Writes one tar, and before it its DALI index. Returns the images' (height, width), None where there is none."""
    sizes, lines, part = [], [f"v1.2 {len(rows)}\n"], path.with_name(f"{path.name}.part")
    with open(part, "wb") as tar:
        for row, image in zip(rows.tolist(), encoded, strict=True):
            name, label = plan.names[row], b"%d" % plan.label[row]
            if len(image) != plan.length[row]:
                raise OSError(f"{name}: has {len(image)} bytes now and had {plan.length[row]}: the file was changed")
            stem, extension = os.path.splitext(name)
            tar.write(_member(name, image))
            label_offset = tar.tell() + BLOCK
            tar.write(_member(f"{stem}.cls", label))
            lines.append(
                f"{extension[1:]} {plan.offset[row]} {len(image)} {name} cls {label_offset} {len(label)} {stem}.cls\n"
            )
            sizes.append(_size(image))
        tar.write(_END_OF_TAR)
    write_atomically(str(path.with_suffix(".idx")), "".join(lines).encode("utf-8", "surrogateescape"))
    os.replace(part, path)
    return sizes


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)
