"""Compare the trainings of an MLflow experiment: a table in the terminal, and a page with their curves.

python -m vgg_dist.report --experiment vgg_dist
python -m vgg_dist.report --experiment vgg_dist --tracking-uri http://mlflow:5000 --output comparison.html
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from pipelines.cli import run_command
from vgg_dist.config.suggestions import suggestions


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Compare the trainings of an MLflow experiment."""

    experiment: str = "vgg_dist"
    """MLflow experiment."""
    tracking_uri: str | None = None
    """MLflow server or sqlite:///FILE. Default: MLFLOW_TRACKING_URI, or mlflow.db in --storage-path."""
    storage_path: str = "runs"
    """Folder of the runs, for the default of --tracking-uri."""
    output: str = "comparison.html"
    """The file of the page."""


def main(prog: str = "python -m vgg_dist.report") -> None:
    """The command line."""
    status = run_command(
        prog,
        lambda: tyro.cli(ReportConfig, prog=prog, description=__doc__),
        report,
        improve=suggestions(ReportConfig),
    )
    sys.exit(status)


def report(config: ReportConfig) -> None:
    """Prints the table and writes the page. ValueError or OSError, one line, for what stops it."""
    from vgg_dist.reporting.comparison import compare_by_data, leaders, to_html
    from vgg_dist.tracking import read_histories, read_runs, resolve_tracking_uri

    uri = resolve_tracking_uri(config.tracking_uri, config.storage_path)
    runs = read_runs(uri, config.experiment)
    if not runs:
        raise ValueError(f"--experiment {config.experiment}: has no trainings")
    comparisons = compare_by_data(runs)
    for comparison in comparisons:
        data = f"On {comparison.data}:\n" if len(comparisons) > 1 else ""
        print(f"{data}{comparison.to_text()}\n", flush=True)
    content = to_html(comparisons, f"Experiment {config.experiment}", read_histories(uri, leaders(comparisons)))
    page = Path(config.output).absolute()
    try:
        page.write_text(content, encoding="utf-8")
    except OSError as error:
        raise OSError(f"--output {config.output}: cannot be written: {error.strerror}; give a file that can") from None
    print(f"page: {page}")


if __name__ == "__main__":
    main()
