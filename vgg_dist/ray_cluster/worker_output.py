"""What Ray prints in a command: the output of the job's other processes, and remarks of its own.

By itself Ray prints them with colour codes, also into files, and adds paragraphs on processes that it lost. Here each line
is plain and says where it comes from; warnings of torch and Ray that a user can do nothing about are left out.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from ray._private import worker

QUIET_LIBRARIES = "torch|torchvision|ray|nvidia|mlflow|pydantic"
HIDDEN = re.compile(
    rf"/site-packages/({QUIET_LIBRARIES})/[^ ]*:\d+: \w*Warning: "  # Python's warnings, from inside a library
    r"|: (Future|Deprecation|PendingDeprecation)Warning: "
    r"|^\[W\d{3,4} [\d:. ]+\S+\] "  # torch's from C++, such as of a host without a name
    r"|core_worker\.cc:\d+: Actor with class name: "  # of Ray's own actors: that they would not outlive their creator
    r"|^Detected that the Ray Train controller actor |^PreemptionWatcher: "  # which the command says itself
    r"|__ray_tqdm_magic_token__"
)
# Ray's remarks on a process that it lost: the command says that itself, in one line.
HIDDEN_REMARK = re.compile(
    r"^Tip: |marked dead|Raylet is terminated|died or was killed"
    r"|died unexpectedly|has died|actor is dead|unexpected system error",
    re.I,
)
COLOURS = re.compile(r"\x1b\[[\d;]*m| \(Ray deduplicates logs by default\..*")  # and the advice that comes with a count
REMARK = 200  # characters that are shown of a remark


def take_worker_output() -> None:
    """From here on Ray prints, in this process, what `OutputFilter` leaves."""
    if hasattr(worker, "print_worker_logs"):  # private: without it Ray prints as it does by itself
        worker.print_worker_logs = OutputFilter().print
    warnings.filterwarnings("ignore", category=FutureWarning, module=rf"({QUIET_LIBRARIES})\.")


class OutputFilter:
    """Stands in for Ray's `print_worker_logs`."""

    def __init__(self) -> None:
        self.in_warning: set[object] = set()
        """Processes whose last line was a hidden warning: the next one may be the line of source that Python adds."""
        self.ignored: dict[object, list[str]] = {}
        """Process -> the lines so far of an exception that Python ignored."""

    def print(self, data: dict[str, Any], print_file: Any = None, ignore_prefix: bool = False) -> None:
        """Prints a batch of lines from one process, `data` being Ray's description of it."""
        for line in self.wanted(data):
            print(line, file=print_file or sys.stdout, flush=True)

    def wanted(self, data: dict[str, Any]) -> Iterable[str]:
        """The lines to print, each with where it comes from."""
        lines = [COLOURS.sub("", str(line)).rstrip() for line in data.get("lines", ())]
        if data.get("pid") in ("raylet", "autoscaler", "gcs"):
            if data["pid"] == "autoscaler":  # its log, of which this finds the events
                lines = list(worker.filter_autoscaler_events(lines))
            remarks = [" ".join(line.rpartition(":info_message:")[2].split()) for line in lines]
            return [f"Ray: {line[:REMARK]}" for line in remarks if line and not HIDDEN_REMARK.search(line)]
        return [
            f"{_source(data)}: {line}" for line in self._without_warnings(data, self._without_exits(data, lines)) if line
        ]

    def _without_exits(self, data: dict[str, Any], lines: list[str]) -> Iterable[str]:
        """Without the traceback of a process that Ray ends while Python is in a weak reference's callback."""
        process = data.get("ip"), data.get("pid"), data.get("is_err")
        for line in lines:
            if line.startswith("Exception ignored "):
                self.ignored[process] = [line]
            elif process not in self.ignored:
                yield line
            else:
                self.ignored[process].append(line)
                if line and not line.startswith((" ", "Traceback ")):
                    told = self.ignored.pop(process)
                    yield from () if line.startswith("SystemExit") else told

    def _without_warnings(self, data: dict[str, Any], lines: Iterable[str]) -> Iterable[str]:
        process = data.get("ip"), data.get("pid"), data.get("is_err")
        for line in lines:
            hidden = HIDDEN.search(line) or (process in self.in_warning and line.startswith("  "))
            self.in_warning.discard(process)
            if not hidden:
                yield line
            elif not line.startswith("  "):
                self.in_warning.add(process)


def _source(data: dict[str, Any]) -> str:
    """Which process, and on another machine where."""
    name = str(data.get("actor_name") or data.get("task_name") or "process").removeprefix("ray::")
    where = "" if data.get("ip") == data.get("localhost") else f" on {data.get('ip')}"
    return f"{name} {data.get('pid')}{where}"
