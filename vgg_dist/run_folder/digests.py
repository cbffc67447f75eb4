"""Detects damaged checkpoints by digests.json, the SHA-256 of each of their files.

`{"model.safetensors": "<64 hexadecimal digits>", ...}`. Checkpoints of older versions have none and are not checked. Files
of torch.save from elsewhere are checked by the checksums of the zip archive that they are.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from vgg_dist.run_folder.names import DIGESTS


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is damaged or missing; the message is one line that names it."""


def damaged(file: Path, error: Exception | str) -> DamagedCheckpoint:
    """The one-line error for a checkpoint's file that cannot be read."""
    return DamagedCheckpoint(f"checkpoint {file} is damaged or incomplete: {' '.join(str(error).split())[:200]}")


def write_digests(folder: Path) -> None:
    """Writes the digests of all files in a folder."""
    digests = {file.name: _digest(file) for file in sorted(folder.iterdir()) if file.is_file() and file.name != DIGESTS}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1))


def has_digests(folder: Path) -> bool:
    """Whether the checkpoint has digests, so that `check_files` checks something."""
    return (folder / DIGESTS).exists()


def is_intact(name: str, content: bytes, digests: bytes | None) -> bool:
    """Whether a file's content agrees with `digests`, the content of digests.json; True if that is None."""
    try:
        return digests is None or json.loads(digests)[name] == hashlib.sha256(content).hexdigest()
    except (ValueError, KeyError, TypeError):
        return False


def check_files(folder: Path, names: Sequence[str] | None = None) -> None:
    """DamagedCheckpoint if any of the files `names`, by default all, has another digest or is missing."""
    try:
        digests = json.loads((folder / DIGESTS).read_text())
        if not isinstance(digests, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:
        return
    except ValueError as error:
        raise damaged(folder / DIGESTS, error) from error
    for name in digests if names is None else names:
        if name not in digests:
            raise damaged(folder / DIGESTS, f"it has no {name}")
        try:
            found = _digest(folder / name)
        except FileNotFoundError as error:
            raise damaged(folder / name, f"{DIGESTS} beside it lists it, and it is not there") from error
        if found != digests[name]:
            raise damaged(folder / name, f"its SHA-256 is not the one in {DIGESTS}")


def damaged_member(file: Path) -> str | None:
    """The first member of a torch.save file, a zip archive, whose CRC-32 is wrong; torch itself does not check it.

    None if all are right, or if torch wrote no checksums (`torch.serialization.set_crc32_options`).
    """
    try:
        with zipfile.ZipFile(file) as archive:
            is_whole = {member: _has_checksum(archive, member) for member in archive.namelist()}
    except Exception:  # an older format, or a damaged directory, for which zipfile raises many kinds: torch will report it
        return None
    wrong = [member for member, whole in is_whole.items() if not whole]
    return wrong[0] if wrong and len(wrong) < len(is_whole) / 2 else None


def _has_checksum(archive: zipfile.ZipFile, member: str) -> bool:
    try:
        with archive.open(member) as opened:
            while opened.read(2**24):
                pass
    except Exception:  # as above
        return False
    return True


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
