"""Static checks of the image: the Dockerfile, the copied files, the pinned packages. test_image.py builds and runs it."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from support.image_commands import COMPILE
from support.paths import ROOT

DOCKERFILE = ROOT / "cluster" / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Programs in packages of Debian and Ubuntu.
PROGRAMS = {"g++": ("gcc", "g++", "as", "ld"), "openssl": ("openssl",)}


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint")
def test_the_dockerfile_has_no_lint() -> None:
    assert subprocess.run([str(HADOLINT), DOCKERFILE], check=False).returncode == 0


def test_the_builder_is_sent_what_is_copied_and_nothing_else(tmp_path: Path) -> None:
    from docker.utils.build import exclude_paths  # reads .dockerignore as Docker does

    copied = [word for line in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE.read_text(), re.M) for word in line.split()]
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied)
    assert PROJECT["project"]["readme"] in copied
    files = {
        str(path.relative_to(ROOT)) for name in copied for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file()
    }
    wanted = {name for name in files if "__pycache__" not in name}
    assert all(any(file == name or file.startswith(f"{name}/") for file in wanted) for name in copied)
    others = {"vgg_dist/__pycache__/train.cpython-312.pyc", "runs/first/model.safetensors", "data/train.tar", ".git/config"}
    for name in wanted | others | {".venv/bin/python", "tests/cluster/test_image.py", ".dockerignore"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sent = exclude_paths(str(tmp_path), patterns)
    assert {name for name in sent if (tmp_path / name).is_file()} - {".dockerignore", "Dockerfile"} == wanted


def image_packages() -> set[str]:
    """The packages that apt-get installs in the final stage of the image."""
    stage = DOCKERFILE.read_text().split("\nFROM ")[-1].replace("\\\n", " ")
    lines = re.findall(r"apt-get install ([^&\n]*)", stage)
    return {word for line in lines for word in line.split() if not word.startswith("--")}


def test_the_image_has_what_ray_up_calls_in_it() -> None:
    """Ray copies files with rsync, which starts rsync in the container; this checks that Ray still does so."""
    from ray.autoscaler._private.command_runner import DockerCommandRunner

    assert "rsync -e '{} exec -i'" in inspect.getsource(DockerCommandRunner.run_rsync_up)
    assert "rsync" in image_packages()


@pytest.mark.slow
def test_the_image_has_what_torch_compile_calls(tmp_path: Path) -> None:
    """With only the programs of these packages, Triton's launcher and a net for the CPU can be compiled."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if missing := [name for names in PROGRAMS.values() for name in names if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)}")
    if not header.exists():
        pytest.skip(f"no {header}")
    assert "libpython3-dev" in image_packages()
    (tmp_path / "bin").mkdir()
    for package in PROGRAMS.keys() & image_packages():
        for name in PROGRAMS[package]:
            (tmp_path / "bin" / name).symlink_to(Path(str(shutil.which(name))).resolve())
    env = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(tmp_path)], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_the_image_holds_satisfies_the_project() -> None:
    from packaging.requirements import Requirement

    pinned = dict(
        re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", (ROOT / "cluster" / "requirements.txt").read_text(), re.MULTILINE)
    )
    for line in PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["s3"]:
        requirement = Requirement(line)
        assert pinned[requirement.name.replace("_", "-").lower()] in requirement.specifier, line
