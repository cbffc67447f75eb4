"""One-line errors of command lines, also where the terminal has no box-drawing characters."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest
import tyro

from pipelines.cli import run_command


@dataclass(frozen=True)
class Settings:
    size: Literal["small", "large"] = "small"
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"--count {self.count}: must be\nat least 1")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "huge"], "invalid choice 'huge' for argument '--size'. Expected one of ('small', 'large')."),
        (["--sizes", "large"], "Unrecognized options: --sizes, large"),
        (["--count"], "Missing value for argument '--count'. Expected 1 values."),
    ],
)
def test_a_box_is_one_line(encoding: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def parse(warning: str) -> Settings:
        print(warning, end="", file=sys.stderr)
        return tyro.cli(Settings, args=flags)

    for warning in ("", "--old is now --new;\n"):
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding)), pytest.raises(SystemExit) as end:
            run_command("python -m it", lambda: parse(warning), print)  # noqa: B023
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said == f"it: {warning.replace(chr(10), ' ')}{message} (--help explains all flags)\n"


def test_the_status_is_what_the_work_returns_or_2_for_a_mistake_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("it", lambda: 3, lambda options: options) == 3
    assert run_command("it", lambda: None, lambda _: "a result") == 0

    def work(_: object) -> None:
        raise ValueError("--data s3://key:secret@bucket:\n does not exist")

    assert run_command("python -m it", lambda: None, work) == 2
    assert capsys.readouterr().err == "it: --data s3://***@bucket: does not exist\n"
    with pytest.raises(OSError, match="a bug"):
        run_command("it", lambda: None, lambda _: _raise(OSError("a bug")), errors=(ValueError,))


def _raise(error: Exception) -> None:
    raise error


def test_a_value_error_of_parsing_is_one_line_and_warnings_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_command("it", lambda: Settings(count=0), print)
    assert (end.value.code, capsys.readouterr().err) == (2, "it: --count 0: must be at least 1\n")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        run_command("it", lambda: print("--old is now --new", file=sys.stderr), lambda _: 0)
    assert said.getvalue() == "--old is now --new\n"


def test_help_into_a_closed_pipe_ends_quietly() -> None:
    """As with `--help | head`: the reader is gone when the last of the text is written, and help ends by SystemExit."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from pipelines.cli import printing\nwith printing():\n    print('help')\n    sys.exit(0)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code], env=buffered, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
