"""MLflow's pages in a real browser: runs under names and settings that tell them apart, compared without fiddling.

Screenshots go to the folder in VGG_DIST_SCREENSHOTS, if that is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.mlflow_server import PATIENCE_S, Server, wait_for

from vgg_dist.config import Arch, TrainConfig
from vgg_dist.launch.best_so_far import BestSoFar
from vgg_dist.launch.run_record import open_training
from vgg_dist.tracking import TrackedRun, Tracker, finish_run, log_report, open_run, ui_hint

ARCHS: tuple[Arch, ...] = "A", "A-LRN", "B", "C", "D", "E"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


def train(storage: Path, arch: Arch, number: int) -> TrackedRun:
    """The record of a training, as its driver leaves it."""
    init_from = None if number < 2 else str(storage / "A-256")
    config = TrainConfig(arch=arch, name=f"{arch}-256", storage_path=str(storage), init_from=init_from).resolved()
    run = open_training(config)
    tracker, best = Tracker(run), BestSoFar(run.folder)
    for epoch in range(1, 6):
        errors = {"val/top1_error": 30 + 60 / epoch - number, "val/top5_error": 10 + 40 / epoch - number}
        metrics = {"epoch": epoch, "train/loss": 7 / epoch, "val/loss": 7 / epoch - number / 10, **errors}
        tracker.log(best.added_to([{"step": 5004 * epoch, "time": time.time(), "metrics": metrics}]))
    assert tracker.close(wait_s=PATIENCE_S) == 0
    finish_run(run, "FINISHED")
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[TrackedRun]:
    storage = tmp_path_factory.mktemp("runs")
    found = [train(storage, arch, number) for number, arch in enumerate(ARCHS)]
    tags = {"mlflow.source.name": "vgg_dist.evaluate"}
    evaluation = open_run(found[0].tracking_uri, "vgg_dist", str(storage), "evaluation", {}, tags)
    log_report(evaluation, {"table3/E_256/top5_error": 9.0}, {"report.html": "<h1>The paper's tables beside ours</h1>"})
    finish_run(evaluation, "FINISHED")
    return [*found, evaluation]


@pytest.fixture(scope="module")
def server(runs: list[TrackedRun], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(runs[0], tmp_path_factory.mktemp("server"))
    try:
        wait_for(server.ready)
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1700, "height": 1100}, base_url=server.uri)
        page.set_default_timeout(60_000)
        page.goto("/")
        page.get_by_role("button", name="Model training", exact=True).click()
        page.get_by_role("button", name="Close", exact=True).click()  # the assistant, a third of the page
        yield page
        browser.close()


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get("VGG_DIST_SCREENSHOTS"):
        page.wait_for_timeout(1500)  # what moves on the page comes to rest
        page.screenshot(path=Path(folder, f"mlflow-{name}.png"))


def test_the_experiment_lists_the_runs_by_name(page: Any, runs: list[TrackedRun]) -> None:
    page.goto(f"/#/experiments/{runs[0].experiment_id}/runs")
    for arch in ARCHS:
        page.get_by_role("link", name=f"{arch}-256", exact=True).first.wait_for()
    keep(page, "experiment")


def test_the_compare_page_shows_the_configurations_side_by_side(page: Any, runs: list[TrackedRun]) -> None:
    ids, experiment = [run.run_id for run in runs[:-1]], runs[0].experiment_id
    page.goto(f"/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment]))}")
    page.get_by_text("Comparing 6 Runs from 1 Experiment").wait_for()
    last_errors = [f"{42 - number}" for number in range(len(ARCHS))]  # all six columns fit, none is scrolled to
    for text in ("arch", "train_scale", "init_from", *ARCHS, "val/top1_error", *last_errors):
        page.get_by_text(text, exact=True).first.wait_for()
    keep(page, "compare")


def test_the_page_that_is_told_shows_the_curves_the_validations_first(
    page: Any, server: Server, runs: list[TrackedRun]
) -> None:
    """In a browser that has never been there, as a newcomer's: MLflow's first view is for language models."""

    def told(*of: Any) -> str:
        return ui_hint(*of).splitlines()[1].removeprefix("then open http://127.0.0.1:5000")

    fresh = page.context.browser.new_context(viewport={"width": 1700, "height": 1100}, base_url=server.uri)
    newcomer = fresh.new_page()
    newcomer.set_default_timeout(60_000)
    newcomer.goto(told(runs[0]))
    newcomer.locator(".js-plotly-plot").first.wait_for()
    keep(newcomer, "curves")
    sections = re.findall(r"^(best|train|val)\b", newcomer.locator("body").inner_text(), re.MULTILINE)
    assert sections[:2] == ["best", "train"], newcomer.locator("body").inner_text()
    newcomer.goto(told(runs[-1], "artifacts/report.html"))
    newcomer.frame_locator("iframe").get_by_text("The paper's tables beside ours").wait_for()
    fresh.close()


def test_the_report_is_shown_as_a_page(page: Any, runs: list[TrackedRun]) -> None:
    evaluation = runs[-1]
    page.goto(f"/#/experiments/{evaluation.experiment_id}/runs/{evaluation.run_id}/artifacts/report.html")
    page.frame_locator("iframe").get_by_text("The paper's tables beside ours").wait_for()
    keep(page, "report")
