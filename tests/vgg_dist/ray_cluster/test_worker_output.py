"""What is shown of the output of a job's other processes, and of Ray's own remarks."""

from __future__ import annotations

import io
from typing import Any

import pytest

from vgg_dist.ray_cluster.worker_output import OutputFilter

REPEATED = "RayTrainWorker 42: hello [repeated 2x across cluster]"


def batch(*lines: str, pid: Any = 42, **more: Any) -> dict[str, Any]:
    known = {"ip": "10.0.0.1", "localhost": "10.0.0.1", "is_err": False, "actor_name": "RayTrainWorker"}
    return known | {"lines": list(lines), "pid": pid} | more


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (batch("hello", ""), ["RayTrainWorker 42: hello"]),
        (batch("hello\x1b[32m [repeated 2x across cluster] (Ray deduplicates logs by default. Set x)\x1b[0m"), [REPEATED]),
        (batch("hello", ip="10.0.0.2", actor_name=None, task_name="fetch"), ["fetch 42 on 10.0.0.2: hello"]),
        (
            batch("Traceback (most recent call last):", '  File "a.py", line 1, in f', "ValueError: no"),
            [
                "RayTrainWorker 42: Traceback (most recent call last):",
                'RayTrainWorker 42:   File "a.py", line 1, in f',
                "RayTrainWorker 42: ValueError: no",
            ],
        ),
        (
            batch("/venv/lib/python3.11/site-packages/torch/x.py:12: FutureWarning: is old", "  x = old()", "hello"),
            ["RayTrainWorker 42: hello"],
        ),
        (batch("/venv/lib/python3.11/site-packages/torch/nn/x.py:9: UserWarning: strides differ"), []),
        (batch("Detected that the Ray Train controller actor (5f) is dead.", actor_name="PlacementGroupCleaner"), []),
        (batch("/home/me/job.py:9: UserWarning: mine"), ["RayTrainWorker 42: /home/me/job.py:9: UserWarning: mine"]),
        (batch("[W1126 22:13:40.123456789 socket.cpp:200] [c10d] no hostname (errno: 97)."), []),
        (
            batch("[2026-11-26 22:28:43,110 E 195 196] core_worker.cc:2465: Actor with class name: 'Watcher' and"),
            [],
        ),
        (
            batch("[E1126 22:13:40.12 socket.cpp:2] broken"),
            ["RayTrainWorker 42: [E1126 22:13:40.12 socket.cpp:2] broken"],
        ),
        (batch("A worker died or was killed while executing a task by an unexpected system error.\nSee", pid="raylet"), []),
        (batch("The node with node id: 5f has been marked dead because the detector", pid="raylet"), []),
        (batch("Raylet is terminated. Termination is unexpected. Possible reasons include: (1)", pid="raylet"), []),
        (batch("/tmp/ray is over 95% full,\n  2 GB left", pid="raylet"), ["Ray: /tmp/ray is over 95% full, 2 GB left"]),
        (
            batch("2026 INFO monitor", "x :event_summary:Adding 2 node(s) of type gpu.", pid="autoscaler"),
            ["Ray: Adding 2 node(s) of type gpu."],
        ),
    ],
)
def test_lines_are_plain_and_say_where_they_come_from(
    data: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda: False)  # else it asks Ray's head
    written = io.StringIO()
    OutputFilter().print(data, written)
    assert written.getvalue().splitlines() == expected


def test_an_ignored_exception_is_shown_unless_it_is_the_end_of_the_process() -> None:
    output = OutputFilter()
    head = ["Exception ignored in: <function f>", "Traceback (most recent call last):", '  File "a.py", line 1, in f']
    assert list(output.wanted(batch(*head[:2]))) == []
    assert list(output.wanted(batch("of another process", pid=43))) == ["RayTrainWorker 43: of another process"]
    assert list(output.wanted(batch(head[2], "", "SystemExit: 1", "next"))) == ["RayTrainWorker 42: next"]
    other = [*head, "ValueError: no"]
    assert list(output.wanted(batch(*other))) == [f"RayTrainWorker 42: {line}" for line in other]


def test_only_the_source_line_of_a_hidden_warning_is_hidden_also_in_the_next_batch() -> None:
    output = OutputFilter()
    warning = "/venv/lib/python3.11/site-packages/ray/x.py:12: UserWarning: is old"
    assert list(output.wanted(batch(warning))) == []
    assert list(output.wanted(batch("  of another process", pid=43))) == ["RayTrainWorker 43:   of another process"]
    assert list(output.wanted(batch("  x = old()", "  an indented line"))) == ["RayTrainWorker 42:   an indented line"]
