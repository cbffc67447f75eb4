"""A flipped bit in a file of torch.save is found by the archive's checksums, which torch itself does not look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vgg_dist.run_folder.digests import damaged_member
from vgg_dist.weights.files import read_weights_file

WEIGHTS = {f"layer{k}.weight": torch.arange(200.0) + k for k in range(8)}


def is_same(content: object) -> bool:
    assert isinstance(content, dict)
    return content.keys() == WEIGHTS.keys() and all(torch.equal(content[key], WEIGHTS[key]) for key in WEIGHTS)


def test_no_flip_of_a_bit_changes_weights_without_a_word(tmp_path: Path) -> None:
    file, refused = tmp_path / "net.pth", []
    torch.save(WEIGHTS, file)
    whole = file.read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(whole), 300).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            content, _ = read_weights_file(file, "net.pth")
        except ValueError as error:
            refused.append(str(error))
        else:
            assert is_same(content), bit  # in what fills up, and in times of day
    assert len(refused) > 100
    assert all(said.startswith("net.pth: ") and "\n" not in said for said in refused)


def test_files_that_have_no_checksums_are_read(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.pth" for name in ("usual", "none", "old")}
    torch.save(WEIGHTS, files["usual"])
    torch.save(WEIGHTS, files["old"], _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, files["none"])
    finally:
        torch.serialization.set_crc32_options(True)
    for name, file in files.items():
        assert damaged_member(file) is None, name
        assert is_same(read_weights_file(file, "net.pth")[0]), name
    damaged = bytearray(files["usual"].read_bytes())
    at = damaged.index(WEIGHTS["layer3.weight"].numpy().tobytes())
    damaged[at] ^= 1
    files["usual"].write_bytes(damaged)
    with pytest.raises(ValueError, match=r"^net.pth: is damaged: usual/data/3 in it does not have its checksum$"):
        read_weights_file(files["usual"], "net.pth")
