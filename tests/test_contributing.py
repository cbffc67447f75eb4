"""CONTRIBUTING.md's file tree names every file of vgg_dist and pipelines, and no others."""

from __future__ import annotations

import re

import pytest
from support.paths import ROOT


def rooms(package: str) -> dict[str, set[str]]:
    """The words of each room's entry in the tree, by the room's path; those of the package itself under "."."""
    tree = re.search(r"```\n(vgg_dist/\n.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert tree
    found: dict[str, set[str]] = {".": set()}
    top = room = ""
    for line in tree[1].splitlines():
        if not line.startswith(" "):
            top, room = line.partition("/")[0], "."
            continue
        if start := re.match(r"  (\w+)/ ", line):
            room = start[1]
        elif re.match(r"  \S", line):
            room = "."
        if top == package:
            found.setdefault(room, set()).update(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", line)))
    return found


@pytest.mark.parametrize("package", ["vgg_dist", "pipelines"])
def test_the_tree_names_every_file(package: str) -> None:
    written = rooms(package)
    for file in sorted((ROOT / package).rglob("*.py")):
        room, *inner = [*file.relative_to(ROOT / package).parts[:-1], "."]
        if file.stem in ("__init__", "__main__") or inner not in ([], ["."]):
            continue  # rooms within rooms are named, their files are not
        assert file.stem in written.get(room, set()), file.relative_to(ROOT)
