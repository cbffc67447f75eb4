"""The vgg command: its subcommands, its mistakes, what it does not import, and completion in bash."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from support.paths import ROOT

from pipelines.version import version_line
from vgg_dist.cli import SUBCOMMANDS
from vgg_dist.completion import SETTINGS
from vgg_dist.models.specs import MODELS


def test_the_help_has_a_line_for_each_subcommand(call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.cli", "--help")
    assert (done.status, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line[2] != " "] == [
        *SUBCOMMANDS
    ]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_has_its_own_help_and_one_line_for_a_mistake(name: str, call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.cli", name, "--help")
    assert done.status == 0
    assert done.stdout.startswith(f"usage: vgg {name} ")
    done = call("vgg_dist.cli", name, "--nothing-like-it")
    assert (done.status, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"vgg {name}: ")
    assert "--help" in done.stderr


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_tells_the_version(name: str, call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.cli", name, "--version")
    assert (done.status, done.stdout, done.stderr) == (0, f"{version_line()}\n", "")
    assert call("vgg_dist.cli", "--version").stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "vgg: trian: no such command; did you mean train?"),
        (["Evaluate"], "vgg: Evaluate: no such command; did you mean evaluate?"),
        (["xyz"], "vgg: xyz: no such command; allowed are train, tune, "),
        (["--arch", "E"], "vgg: --arch: flags follow the command; "),
        ([], "vgg: a command is needed: train, tune, "),
        (["--completion"], "vgg: --completion : must be one of bash, zsh, fish"),
        (["--completion", "tcsh"], "vgg: --completion tcsh: must be one of bash, zsh, fish"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.cli", *words)
    assert (done.status, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(message)


def test_a_mistake_in_the_work_of_a_subcommand_is_one_line(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    done = call("vgg_dist.cli", "runs", "--storage-path", tmp_path / "nowhere")
    assert (done.status, done.stderr) == (2, f"vgg runs: --storage-path {tmp_path}/nowhere: does not exist\n")
    done = call("vgg_dist.cli", "prepare", "check", "--data", tmp_path / "nowhere")
    assert (done.status, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("vgg prepare: ")


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], {"tyro", "numpy", "pyarrow", "torch", "ray", "mlflow"}),
        (["train", "--help"], {"torch", "ray.train", "mlflow"}),
        (["runs", "--storage-path", "."], {"torch", "ray", "mlflow"}),
    ],
)
def test_only_what_a_subcommand_needs_is_imported(words: list[str], absent: set[str], tmp_path: Path) -> None:
    script = """
import sys
from vgg_dist.cli import main
try:
    main()
finally:
    print("imported:", *sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    imported = set(done.stderr.partition("imported:")[2].split())
    assert "vgg_dist.cli" in imported
    assert not absent & imported


def test_a_signal_in_the_first_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(100)")
    with subprocess.Popen(
        [sys.executable, "-m", "vgg_dist", "train"], env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + signal.SIGTERM, "vgg train: stopped by SIGTERM\n")


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"set -o pipefail; {sys.executable} -m vgg_dist --completion bash | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_subcommand_is_completed() -> None:
    assert SETTINGS.keys() | {"prepare"} == SUBCOMMANDS.keys()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_and_choices(tmp_path: Path) -> None:
    asked = {
        "tr": {"train"},
        "train --arch ": set(MODELS),
        "train --storage": {"--storage-path"},
        "evaluate --views ": {"dense", "crops", "center"},
        "prepare sh": {"shard"},
        "prepare shard --shard": {"--shard-size"},
        "benchmark load": {"loader"},
        "cluster do": {"down", "doctor"},
    }
    script = """
source "$1"
while IFS= read -r line; do
    read -ra COMP_WORDS <<< "vgg $line"
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    name=$(complete -p vgg | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    $name
    echo "${COMPREPLY[*]}"
done
"""
    printed = subprocess.run(
        [sys.executable, "-m", "vgg_dist", "--completion", "bash"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (tmp_path / "completion.bash").write_text(printed.stdout)
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(tmp_path / "completion.bash")], input="\n".join(asked) + "\n",
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert [set(line.split()) for line in done.stdout.splitlines()] == [*asked.values()]


@pytest.mark.parametrize(("shell", "only_parse"), [("zsh", "-n"), ("fish", "--no-execute")])
def test_other_shells_can_parse_their_completions(shell: str, only_parse: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    command = [sys.executable, "-m", "vgg_dist", "--completion", shell]
    (tmp_path / "completion").write_text(
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )
    done = subprocess.run([shell, only_parse, str(tmp_path / "completion")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
