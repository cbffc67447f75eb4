"""The pages as a browser shows them: nothing is requested or refused, and on a phone everything stays on the screen."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.studies import results, studied_net

from vgg_dist.reporting.comparison import compare_by_data, to_html
from vgg_dist.reporting.paper_tables import EvaluatedNet, build_report
from vgg_dist.reporting.studies import StudyReport
from vgg_dist.tracking import RunRecord
from vgg_dist.visualization.page import Page, Picture, Section, Table
from vgg_dist.visualization.tiles import png

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def evaluation_page() -> str:
    rng = np.random.default_rng(0)
    classes = [f"a_class_with_a_long_name_{c}" for c in range(30)]
    posteriors = rng.dirichlet(np.full(30, 0.2), 90).astype(np.float32)
    net = EvaluatedNet(
        name="a-run-with-a-long-name" * 3, arch="D", batch_norm=True, image_size=224, train_scale=(256, 512),
        available=frozenset({("dense", 384), ("crops", 384)}), posteriors=lambda view, Q: posteriors,
    )  # fmt: skip
    stream = io.BytesIO()
    Image.effect_noise((60, 40), 80).save(stream, "PNG")
    names = [f"val/{'x' * 60}/{k}.png" for k in range(90)]
    report = build_report([net], rng.integers(0, 30, 90), classes, file_name=names.__getitem__)
    return report.to_html(lambda image: stream.getvalue())


def comparison_page() -> str:
    runs = []
    for k in range(12):
        errors = [(epoch, 60 * math.exp(-epoch / 9) + 3 * k) for epoch in range(1, 31)]
        validations = dict.fromkeys(("val/top1_error", "val/top5_error", "val/loss"), errors)
        settings = {"lr": str(0.01 * (k + 1)), "init": f"from a run with a long name {k}", "data": "/data/" + "x" * 100}
        settings |= {f"setting_{n}": str(k % 3) for n in range(9)}
        runs.append(RunRecord(f"run{k}", f"run{k}", "FINISHED", "", 60.0, settings, {"epoch": 30.0}, validations))
    return to_html(compare_by_data(runs), "Many runs")


def small_nets_page() -> str:
    """As many nets as the study has, with nearly as many parameters and similar errors, over several seeds."""
    nets = [studied_net("lenet5", (40.0, 41.0), "earlier", rate=9000, parameters=60_000)]
    nets += [studied_net(name, (22.0, 21.0), "earlier", rate=3000, parameters=62_000_000) for name in ("alexnet", "zfnet")]
    for k, arch in enumerate("ABCDE"):
        parameters = 133_000_000 + 2_000_000 * k
        nets.append(studied_net(arch, (20.0 - k / 2, 18.5 - k / 2), rate=900 - 100 * k, parameters=parameters))
        nets.append(studied_net(f"{arch}-bn", (19.0 - k, 18.5 - k), twin=arch, rate=880 - 99 * k, parameters=parameters))
    return StudyReport("small", results(nets, missing=[("E-seed2", "x" * 100)])).to_html()


def ablations_page() -> str:
    names = "A", "A-LRN", "B", "B-5x5", "C", "D", "D-from-A"
    nets = [studied_net(name, (20.0 + k, 20.5 + k / 2, 19 + k)) for k, name in enumerate(names)]
    return StudyReport("ablations", results(nets)).to_html()


def pictures_page() -> str:
    """As of vgg_dist.visualize: wide and small pictures, a table, long captions."""
    rng = np.random.default_rng(0)
    wide, small = (png(rng.integers(0, 256, (40, width, 4), np.uint8)) for width in (1500, 20))
    pictures = [Picture(wide, f"{'x' * 90}: map {k}", f"{k}.png") for k in range(5)] + [Picture(small, "small")]
    table = Table([f"heading {k}" for k in range(9)], [[f"{'y' * 12} {k}" for k in range(9)]] * 3)
    sections = [Section(f"conv{k}", ("a sentence " * 20,), table, pictures, width) for k, width in enumerate((16, 26, 44))]
    return Page("name", "Pictures of a-run-with-a-long-name" * 2, ("text " * 50,), sections).to_html()


@pytest.mark.parametrize("page", [evaluation_page, comparison_page, small_nets_page, ablations_page, pictures_page])
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_nothing_leaves_the_screen_or_the_page(page: object, width: int, scheme: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    assert callable(page)
    file = tmp_path / "page.html"
    file.write_text(page(), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()  # type: ignore[arg-type]
        requests: list[str] = []
        complaints: list[str] = []
        shown.on("request", lambda request: requests.append(request.url))
        shown.on("console", lambda message: complaints.append(message.text))
        shown.goto(file.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
        assert complaints == []
        background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(251, 251, 250)", "dark": "rgb(20, 21, 24)"}[scheme]
        line = shown.query_selector("polyline.c0")
        if line is not None:
            strokes = {"light": "rgb(31, 111, 192)", "dark": "rgb(109, 177, 245)"}
            assert line.evaluate("element => getComputedStyle(element).stroke") == strokes[scheme]
        overlapping = """() => {
            const boxes = [...document.querySelectorAll('svg')].flatMap(svg => {
                const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
                return texts.flatMap((a, i) => texts.slice(i + 1).filter(b => a.left < b.right - 1 && b.left < a.right - 1
                    && a.top < b.bottom - 2 && b.top < a.bottom - 2));
            });
            return boxes.length;
        }"""
        assert shown.evaluate(overlapping) == 0
        browser.close()
