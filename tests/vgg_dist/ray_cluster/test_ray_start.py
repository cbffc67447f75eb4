"""Ray started on this machine: twice where a start times out, and one line where it does not come up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from vgg_dist.ray_cluster import start as ray_start

TIMED_OUT = "The current node timed out during startup. This could happen because of much.\nAnd more."


class Starts:
    """In place of `ray.init`: each start leaves a process; those up to `failing` end with an error."""

    def __init__(self, failing: int, error: Callable[[], Exception]) -> None:
        self.failing, self.error = failing, error
        self.started: list[subprocess.Popen[bytes]] = []
        self.left: list[psutil.Process] = []
        self.running_at_start: list[int] = []

    def __call__(self, address: str, **settings: Any) -> None:
        assert address == "local"
        self.running_at_start.append(sum(process.is_running() for process in self.left))
        self.started.append(subprocess.Popen(["sleep", "600"]))
        self.left.append(psutil.Process(self.started[-1].pid))
        if len(self.left) <= self.failing:
            raise self.error()


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Starts]]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "no_proxy", "NO_PROXY", *ray_start.START_S):
        monkeypatch.setenv(name, "")  # so that what is set is taken away again
    for name in ray_start.START_S:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    everything: list[Starts] = []

    def starts(failing: int, error: Callable[[], Exception]) -> Starts:
        made = Starts(failing, error)
        everything.append(made)
        monkeypatch.setattr(ray_start.ray, "init", made)
        return made

    yield starts
    for process in [process for made in everything for process in made.started]:
        process.kill()
        process.wait()


def test_a_start_that_times_out_is_tried_once_more(
    starts: Callable[..., Starts], capsys: pytest.CaptureFixture[str]
) -> None:
    made = starts(1, lambda: Exception(TIMED_OUT))  # Ray raises nothing more special
    ray_start.start_ray()
    assert made.running_at_start == [0, 0], "what the first one left is ended before the second"
    assert made.left[1].is_running()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Ray did not start on this machine (Exception: The current node timed out during startup.")
    assert line.endswith("; trying again")
    assert "RAY_ADDRESS" not in os.environ, "empty, it is no cluster's"
    assert all(os.environ[name] == seconds for name, seconds in ray_start.START_S.items())


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (lambda: Exception(TIMED_OUT), 2),
        (lambda: RuntimeError(TIMED_OUT), 2),
        (lambda: TimeoutError(TIMED_OUT), 2),
        (lambda: ConnectionError(TIMED_OUT), 2),
        (lambda: PermissionError(13, "Permission denied", "/tmp/ray"), 1),
        (lambda: ValueError("AF_UNIX path length cannot exceed 107 bytes"), 1),
    ],
)
def test_ray_that_does_not_start_is_one_line(
    error: Callable[[], Exception], tries: int, starts: Callable[..., Starts], tmp_path: Path
) -> None:
    made = starts(9, error)
    with pytest.raises(ValueError, match=r"^Ray did not start on this machine.*session_latest/logs\)$") as caught:
        ray_start.start_ray()
    assert ("in two tries: " in str(caught.value)) == (tries == 2)
    assert f"(see {tmp_path}/ray/session_latest/logs)" in str(caught.value)
    assert len(made.left) == tries
    assert not any(process.is_running() for process in made.left)
