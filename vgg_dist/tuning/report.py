"""The end of a search: its table, a page with plots, and the command that trains the best trial's settings again."""

from __future__ import annotations

import dataclasses

from pipelines.paths import join
from pipelines.secrets import masked
from vgg_dist.config import TuneConfig
from vgg_dist.reporting.comparison import compare, draw_curves, draw_parallel, encode_png, leaders, to_html
from vgg_dist.storage import replace_file
from vgg_dist.tracking import log_report, read_histories, read_runs, ui_hint
from vgg_dist.tuning.search import SearchResult


def report_search(config: TuneConfig, found: SearchResult) -> None:
    """Prints the table, writes search.html into the search's folder, and logs both with the plots to its MLflow run."""
    best = found.trials[0]
    comparison = compare(read_runs(found.run.tracking_uri, config.experiment, found.run), config.metric)
    histories = read_histories(found.run.tracking_uri, leaders([comparison]))
    page = to_html([comparison], f"Search {config.name}", histories)
    replace_file(join(config.folder, "search.html"), page.encode())
    plots = {
        "learning_curves.png": encode_png(draw_curves(comparison)),
        "parallel_coordinates.png": encode_png(draw_parallel(comparison)),
    }
    # Under another name, as the trial's own run has nothing left to train.
    again = dataclasses.replace(best.config, storage_path=config.storage_path, name=f"{config.name}-best")
    command = again.command_line()
    log_report(found.run, {f"best/{config.metric}": best.error}, {"search.html": page, **plots, "best.txt": command})
    epochs = sum(trial.epochs for trial in found.trials)
    print(
        f"{comparison.to_text()}\n\n{len(found.trials)} trials, {epochs:g} epochs in all."
        f" Best: {best.config.name}, {config.metric} {best.error:.4g}\n"
        f"train it: {command}\nreport: {masked(join(config.folder, 'search.html'))}\n"
        f"{ui_hint(found.run, 'artifacts/search.html')}"
    )
