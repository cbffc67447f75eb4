"""Finds the images in a tar archive, and the offset and length of their data, without unpacking it.

Links are resolved, and the last member of a name counts, as if the archive were unpacked. A tar within the tar counts as a
folder of its name, without `.tar`.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import tarfile
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pipelines.layouts.image_files import (
    BROKEN_LINK,
    CIRCLE,
    OUTSIDE,
    REPLACED,
    SPARSE,
    SPECIAL,
    LeftOut,
    is_image_name,
    is_left_out_folder,
    why_left_out,
)
from pipelines.progress import Progress

Span = tuple[int, int]
"""Offset of the data in the archive, length in bytes."""
_BYTES_AFTER_END = 1 << 20  # searched for another archive; tar pads an archive to blocks of 10 kB
_NOT_FILES = (b"V", b"D")  # GNU tar's volume label, and its list of the names in a folder
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_MAX_LINKS = 40  # on the path to a file, as in Linux


class _Links:
    """The entries of an archive by path: the span of a file's data, or the target of a link, from the archive's root."""

    def __init__(self) -> None:
        self.entries: dict[str, Span | str] = {}

    @cached_property
    def paths(self) -> list[str]:
        """All paths, sorted. Computed once, so only to be used after the last entry was added."""
        return sorted(self.entries)

    def follow(self, path: str) -> str:
        """The path after resolving all links in it. Raises LookupError with the reason if it cannot be resolved."""
        done, todo, taken = "", path.split("/"), 0
        while todo:
            part = todo.pop(0)
            if part == ".." and not done:
                raise LookupError(OUTSIDE)
            if part in ("", ".", ".."):
                done = posixpath.dirname(done) if part == ".." else done
                continue
            done = posixpath.join(done, part)
            target = self.entries.get(done)
            if isinstance(target, str):
                taken += 1
                if taken > _MAX_LINKS:
                    raise LookupError(CIRCLE)
                if target.startswith("/"):
                    raise LookupError(OUTSIDE)
                done, todo = "", [*target.split("/"), *todo]
        return done

    def below(self, folder: str) -> list[str]:
        """The paths below a folder; "" is the archive's root."""
        if not folder:
            return self.paths
        # "0" is the character after "/".
        return self.paths[bisect_left(self.paths, f"{folder}/") : bisect_left(self.paths, f"{folder}0")]

    def files(self, path: str, followed: tuple[str, ...], left_out: LeftOut) -> Iterator[tuple[str, Span]]:
        """The file that the link at `path` leads to, or all files of the folder, with paths that begin with `path`.

        `followed`: the folders that have the links followed so far.
        """
        try:
            target = self.follow(path)
        except LookupError as error:
            left_out.add(error.args[0], path)
            return
        found = self.entries.get(target)
        if isinstance(found, tuple):
            yield path, found
            return
        inside = self.below(target)
        if not inside:
            left_out.add(BROKEN_LINK, path)
        elif not target or any(f"{folder}/".startswith(f"{target}/") for folder in followed):
            left_out.add(CIRCLE, path)
        else:
            for other in inside:
                name, entry = f"{path}{other[len(target) :]}", self.entries[other]
                if isinstance(entry, tuple):
                    yield name, entry
                else:
                    for deeper, span in self.files(other, (*followed, posixpath.dirname(other)), left_out):
                        yield f"{name}{deeper[len(other) :]}", span


def read_members(path: Path) -> tuple[list[tuple[str, Span]], LeftOut]:
    """The path and span of each image, in no particular order, and counts of the other members.

    Raises ValueError, one line, if the file is not an uncompressed tar, is truncated or damaged.
    """
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (tarfile.TarError, OSError) as error:
        with contextlib.suppress(OSError), path.open("rb") as file:
            start = file.read(6)
            if tool := next((tool for magic, tool in _COMPRESSED.items() if start.startswith(magic)), None):
                raise ValueError(f"{path} is not an uncompressed tar archive: {tool} {path} makes it one") from error
        raise ValueError(f"{path} is not an uncompressed tar archive: {error}") from error
    with tar:
        return _read(tar, str(path), path.stat().st_size)


def _read(tar: tarfile.TarFile, where: str, size: int, *, inner: bool = False) -> tuple[list[tuple[str, Span]], LeftOut]:
    links, left_out = _Links(), LeftOut()
    entries, inner_tars = links.entries, dict[str, tuple[list[tuple[str, Span]], LeftOut]]()
    bar = Progress(_checked(tar, where, size), f"reading {os.path.basename(where)}", unit="member", disable=inner)
    for member in bar:
        name = _plain(member.name)
        if member.isdir() or not name or member.type in _NOT_FILES:
            continue
        if name in inner_tars or (name in entries and is_image_name(posixpath.basename(name))):
            left_out.add(REPLACED, name)
        if member.isreg() and name.endswith(".tar") and not _is_hidden(name):
            inner_tars[name] = _read_inner(tar, member, where)
            continue
        if member.isreg() and not member.issparse():
            entries[name] = member.offset_data, member.size
        elif member.islnk():
            target = _plain(member.linkname)
            # A hard link means the earlier member, even if a later one of the same name replaces that.
            entries[name] = entries[target] if target in entries and target != name else target
        elif member.issym():
            entries[name] = posixpath.join(posixpath.dirname(name), member.linkname)
        else:
            entries.pop(name, None)
            left_out.add(SPARSE if member.isreg() else SPECIAL, name)
    left_out.merge(others for _, others in inner_tars.values())
    images = [item for found, _ in inner_tars.values() for item in found]
    for name, entry in entries.items():
        if isinstance(entry, tuple):
            if _is_image(name, left_out):
                images.append((name, entry))
        elif not _is_hidden(name):
            found_there = links.files(name, (posixpath.dirname(name),), left_out)
            images += [item for item in found_there if _is_image(item[0], left_out)]
        else:
            _is_image(name, left_out)
    return images, left_out


def _read_inner(outer: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> tuple[list[tuple[str, Span]], LeftOut]:
    """As `_read`, with paths and offsets in the outer archive."""
    file = outer.extractfile(member)
    assert file is not None  # a regular file
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            found, left_out = _read(tar, f"{where}:{member.name}", member.size, inner=True)
    except tarfile.TarError as error:
        raise ValueError(f"{where}: {member.name} in it is damaged: {error}") from error
    folder = _plain(member.name).removesuffix(".tar")
    return [(f"{folder}/{path}", (member.offset_data + at, length)) for path, (at, length) in found], left_out


def _checked(tar: tarfile.TarFile, where: str, size: int) -> Iterator[tarfile.TarInfo]:
    """The members. Raises ValueError if the archive, of `size` bytes, is damaged or lacks its end.

    tarfile alone takes a damaged header as the end of the archive.
    """
    try:
        for member in tar:
            if tar.offset > size:  # where the next header would be
                raise ValueError(f"{where} is truncated: it has {size} bytes and no end-of-archive marker")
            yield member
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        rest = tar.fileobj.read(_BYTES_AFTER_END)
    except tarfile.TarError as error:
        raise ValueError(f"{where} is truncated or damaged: {error}") from error
    if len(rest) < tarfile.BLOCKSIZE:
        raise ValueError(f"{where} is truncated: it has {size} bytes and no end-of-archive marker")
    if rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise ValueError(f"{where} is damaged: no valid header at byte {tar.offset}")
    padding = (len(rest) - len(rest.lstrip(b"\0"))) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    if rest[padding + 257 : padding + 262] == b"ustar":
        raise ValueError(
            f"{where} has another archive after its end, at byte {tar.offset + padding}: pass each one separately"
        )


def _plain(name: str) -> str:
    """A member's path from the archive's root, as tar unpacks it: without `./`, `//`, `..` and a leading slash."""
    if name[:1] in "./" or "/." in name or "//" in name:
        return posixpath.normpath(f"/{name}").lstrip("/")
    return name


def _is_hidden(path: str) -> bool:
    return any(map(is_left_out_folder, path.split("/")))


def _is_image(path: str, left_out: LeftOut) -> bool:
    *folders, name = path.split("/")
    for part in folders:
        if is_left_out_folder(part):
            left_out.add(why_left_out(part), path)
            return False
    if is_image_name(name):
        return True
    left_out.add(why_left_out(name), path)
    return False
