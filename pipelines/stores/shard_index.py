"""The index of a split's tar shards, `<split>.index.npz`: the position, class, image size and name of each sample."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace

import numpy as np

from pipelines.failures import what_failed
from pipelines.stores.sample_store import Names

VERSION = 2
_READABLE = (1, VERSION)  # version 1 has no checksums and no JPEGs with a restart table


_COLUMNS = ("shard", "offset", "length", "label", "height", "width", "checksum", "header_start", "header_end")


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Arrays have one entry per sample, in the order of the shards, unless stated otherwise."""

    class_names: list[str]
    shard_names: list[str]
    shard_bytes: np.ndarray
    """int64 (shards,): the size of each tar."""
    shard: np.ndarray
    """int32: index into `shard_names`."""
    offset: np.ndarray
    """int64: offset of the encoded image in the tar, bytes."""
    length: np.ndarray
    """int64: size of the encoded image, bytes."""
    label: np.ndarray
    """int64: index into `class_names`."""
    height: np.ndarray
    """int32: pixels as stored (EXIF orientation not applied); 0 if the image could not be read."""
    width: np.ndarray
    """int32: as `height`."""
    names: Names
    """Member names within the tar."""
    checksum: np.ndarray | None = None
    """uint32: CRC-32 of the encoded image; None if the index has none."""
    header_start: np.ndarray | None = None
    """uint32: where the part of a JPEG's header begins that its pixels depend on, bytes from the start of the image."""
    header_end: np.ndarray | None = None
    """uint32: where that part ends, which is the end of the restart table (`pipelines.stores.restart_table`); 0 where the
    image has no such table. Both are None if no image has one."""
    made_from: str = ""
    """Hexadecimal digest of the samples and settings that the shards were written from; "" if it is unknown."""

    def to_bytes(self) -> bytes:
        """The npz file, with a digest of the arrays: NumPy may read a damaged array without noticing the zip's checksum."""
        stream = io.BytesIO()
        arrays = {key: value for key, value in vars(self).items() if isinstance(value, np.ndarray)}
        # Names as UTF-8 bytes: NumPy's own strings would not hold undecodable file names.
        for key in ("class_names", "shard_names", "names"):
            names = getattr(self, key)
            packed = names if isinstance(names, Names) else Names.of(names)
            arrays |= {f"{key}_blob": packed.blob, f"{key}_ends": packed.ends}
        arrays["version"] = np.array(VERSION, np.int64)
        arrays["made_from"] = np.frombuffer(self.made_from.encode(), np.uint8)
        np.savez_compressed(stream, allow_pickle=False, digest=_digest(arrays), **arrays)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, raw: bytes, where: str) -> ShardIndex:
        """Reads the npz file. Raises ValueError, one line that names `where`, if it is damaged or of another version.

        Indexes that earlier versions of this code wrote have no digest; for them, only inconsistencies are found.
        """
        try:
            with np.load(io.BytesIO(raw), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            digest = arrays.pop("digest", None)
            if digest is not None and not np.array_equal(digest, _digest(arrays)):
                raise ValueError("its checksum does not match")
            version = int(arrays.pop("version"))
            packed = {
                key: Names(arrays.pop(f"{key}_blob"), arrays.pop(f"{key}_ends"))
                for key in ("class_names", "shard_names", "names")
            }
            if version in _READABLE:
                made_from = arrays.pop("made_from", np.zeros(0, np.uint8)).tobytes().decode()
                class_names, shard_names = list(packed["class_names"]), list(packed["shard_names"])
                index = cls(
                    class_names=class_names, shard_names=shard_names, names=packed["names"], made_from=made_from, **arrays
                )
        except Exception as error:  # zipfile, zlib and NumPy's header parser raise many types for a damaged file
            raise ValueError(f"{where} is damaged ({what_failed(error)}): write the shards again") from error
        if version not in _READABLE:
            raise ValueError(f"{where} has version {version}; this code reads versions up to {VERSION}")
        if not index._is_consistent():
            raise ValueError(f"{where} is damaged (it points outside its shards): write the shards again")
        return index

    def _is_consistent(self) -> bool:
        columns = [getattr(self, name) for name in (*_COLUMNS, "names")]
        if len({len(column) for column in columns if column is not None}) != 1 or len(self.shard_names) != len(
            self.shard_bytes
        ):
            return False
        return len(self.shard) == 0 or bool(
            (self.shard.min() >= 0 and self.shard.max() < len(self.shard_names))
            and (self.label.min() >= 0 and self.label.max() < len(self.class_names))
            and (self.offset.min() >= 0 and self.length.min() >= 0)
            and (self.offset + self.length <= self.shard_bytes[self.shard]).all()
        )

    def take(self, indices: np.ndarray) -> ShardIndex:
        """The samples at `indices`, in that order."""
        columns = {name: column[indices] for name in _COLUMNS if (column := getattr(self, name)) is not None}
        return replace(self, names=self.names.take(indices), **columns)


def _digest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """SHA-256 over names, types, shapes and content: uint8 (32,)."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype.str} {arrays[key].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[key]).data)
    return np.frombuffer(digest.digest(), np.uint8)
