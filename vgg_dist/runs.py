"""List the runs in a storage path: how far each is trained, its best validation error, and when it was last written.

    vgg runs
    vgg runs --storage-path s3://bucket/runs

Only the runs' folders are read. They do not say why a run stopped, or whether one still runs: a run that is not finished is
"running?" if its folder changed in the last 20 minutes, and else "stopped". MLflow has the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from pipelines.cli import printing, run_command
from pipelines.paths import absolute
from pipelines.secrets import masked
from vgg_dist.config.suggestions import suggestions
from vgg_dist.reporting.text import printed
from vgg_dist.run_folder.listing import RunSummary, list_runs

HEADINGS = ["run", "state", "net", "epoch", "step", "top-1\nerror %", "top-5\nerror %", "last\nwritten"]
LEFT = {0, 1, 2}  # columns of words


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """List the runs in a storage path."""

    storage_path: str = "runs"
    """Folder or URL of the runs."""


def main(prog: str = "python -m vgg_dist.runs") -> None:
    """The command line."""
    status = run_command(
        prog,
        lambda: tyro.cli(RunsConfig, prog=prog, description=__doc__),
        print_runs,
        improve=suggestions(RunsConfig),
    )
    sys.exit(status)


def print_runs(config: RunsConfig) -> None:
    """Prints the table. ValueError, one line, for a storage path that cannot be read."""
    storage = absolute(config.storage_path)
    try:
        runs = list_runs(storage)
    except FileNotFoundError:
        raise ValueError(f"--storage-path {config.storage_path}: does not exist") from None
    except OSError as error:
        raise ValueError(f"--storage-path {config.storage_path}: cannot be read: {error}") from None
    if not runs:
        print(f"no runs in {masked(storage)}")
        return
    with printing():
        print(printed(HEADINGS, [_row(run) for run in runs], LEFT))


def _row(run: RunSummary) -> Sequence[str]:
    errors = (run.errors.get(f"val/{name}_error") for name in ("top1", "top5"))
    epochs = "" if run.epochs is None else f"/{run.epochs}"
    return (
        run.name,
        run.state,
        run.arch or "",
        "" if run.epoch is None else f"{run.epoch:.3g}{epochs}",
        "" if run.step is None else str(run.step),
        *("" if error is None else f"{error:.2f}" for error in errors),
        "" if run.written is None else f"{run.written.astimezone():%Y-%m-%d %H:%M}",
    )


if __name__ == "__main__":
    main()
