"""The report as it is read: text, Markdown and the page, with what goes wrong."""

from __future__ import annotations

import base64
import html
import io
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.page import Page

from vgg_dist.reporting.paper_tables import EvaluatedNet, Report, build_report


def test_cells_side_by_side_in_all_three_forms() -> None:
    """The paper's, ours and the difference; "not run" where there is none."""
    posteriors = np.tile(np.linspace(1, 0, 1000, dtype=np.float32), (400, 1))
    labels = np.repeat([0, 3, 7], [298, 70, 32])  # 25.5 % are not the first class, 8 % not among the first five
    net = EvaluatedNet(
        name="mine",
        arch="D",
        batch_norm=False,
        image_size=224,
        train_scale=(256, 512),
        available=frozenset({("dense", 384)}),
        posteriors=lambda view, Q: posteriors,
    )
    report = build_report([net], labels, [str(c) for c in range(1000)])
    assert "400 images, each counted once." in report.to_text()
    assert re.search(r"^D +\[256;512\] +384 +25\.6 +8\.1 +25\.50 +8\.00 +-0\.10 +-0\.10 +mine$", report.to_text(), re.M)
    assert re.search(r"^A +256 +256 +29\.6 +10\.4 +not run +not run +- +-$", report.to_text(), re.M)
    assert "| D | \\[256;512\\] | 384 | 25.6 | 8.1 | 25.50 | 8.00 | -0.10 | -0.10 | mine |" in report.to_markdown()
    assert "| A | 256 | 256 | 29.6 | 10.4 | not run | not run | - | - |  |" in report.to_markdown()
    page = Page(report.to_html())
    assert ["D", "[256;512]", "384", "25.6", "8.1", "25.50", "8.00", "−0.10", "−0.10", "mine"] in page.tables["table3"]
    assert ["A", "256", "256", "29.6", "10.4"] in page.tables["table3"]  # folded: it was not run
    assert list(page.tables) == ["table3", "table4", "table5", "table6", "each", "worst", "hardest", "confused"]
    assert "not run" not in report.to_html().replace("that were not run", "")
    coloured = [tag["class"] for tag in page.all_of("td") if set((tag.get("class") or "").split()) & {"better", "worse"}]
    assert [kinds and kinds.split()[-1] for kinds in coloured] == ["better", "better"]


@pytest.fixture(scope="module")
def confused() -> Report:
    """Three of four dogs are taken for <script>, one cat for a dog; second guesses are right for two of the four."""
    names = ["cat", "dog", "<script>alert('x')</script>", *(f"other | {c}" for c in range(7))]
    truth = np.array([1, 0, 1, 1, 0, 1, 2, 0])
    posteriors = np.full((8, 10), 0.01, np.float32)
    posteriors[np.arange(8), truth] = 0.5
    posteriors[[0, 2, 3], 2] = 0.9
    posteriors[4, 1] = 0.9
    posteriors[np.ix_([0, 2], range(3, 9))] = 0.6  # those labels are not among the five
    net = EvaluatedNet(
        name="a <u>run</u>",
        arch="D",
        batch_norm=False,
        image_size=56,
        train_scale=(64, 64),
        available=frozenset({("dense", 64)}),
        posteriors=lambda view, Q: posteriors,
    )
    return build_report([net], truth, names)


def test_hardest_classes_and_confused_pairs(confused: Report) -> None:
    mistakes = confused.mistakes
    assert mistakes
    assert mistakes.errors == (50.0, 25.0)
    hardest = [(c.index, c.images, c.top1_wrong, c.top5_wrong, c.errors, c.examples) for c in mistakes.hardest]
    assert hardest == [
        (1, 4, 3, 2, (75.0, 50.0), ((0, 2), (2, 2), (3, 2))),
        (0, 3, 1, 0, (pytest.approx(100 / 3), 0.0), ((4, 1),)),
    ]
    pairs = [(p.label, p.predicted, p.count, p.images, [e.image for e in p.examples]) for p in mistakes.pairs]
    assert pairs == [(1, 2, 3, 4, [0, 2, 3]), (0, 1, 1, 3, [4])]
    assert re.search(r"^dog +4 +3 +75\.0 +2 +50\.0$", confused.to_text(), re.M)
    assert re.search(r"^image 4 +cat +dog +90\.0 %$", confused.to_text(), re.M)
    assert "| image 4 | cat | dog | 90.0 % |" in confused.to_markdown()
    assert "| dog | &lt;script&gt;alert('x')&lt;/script&gt; | 3 | 4 |" in confused.to_markdown()


def test_page_is_escaped_accessible_and_self_contained(confused: Report) -> None:
    asked = []

    def picture(index: int) -> bytes:
        asked.append(index)
        if index == 3:
            return b"not an image"
        stream = io.BytesIO()
        Image.new("RGB", (400, 300), (200, 30, 30)).save(stream, "PNG")
        return stream.getvalue()

    page = Page(confused.to_html(picture))
    assert set(asked) == {0, 2, 3, 4}
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "u", "form"}
    assert page.tables["confused"][1][:4] == ["dog", "<script>alert('x')</script>", "3", "4"]
    (ours,) = page.tables["table3"][2:]  # below two rows of headings
    assert ours == ["D, 56 px", "64", "64", "50.00", "25.00", "a <u>run</u>"]
    assert page.tables["paper"][2] == ["A", "256", "256", "29.6", "10.4"]  # none of the paper's was run
    assert list(page.tables) == ["worst", "matrix", "hardest", "confused", "table3", "each", "paper"]
    assert all(attributes.get("scope") in ("col", "colgroup", "row") for attributes in page.all_of("th"))
    images = page.all_of("img")
    assert len(images) == 9  # three that can be decoded, each among the worst, the classes and the pairs
    assert {image["alt"] for image in images} >= {"image 4: cat, taken for dog"}
    for image in images:
        prefix, _, content = (image["src"] or "").partition(",")
        assert prefix == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as small:
            assert max(small.size) < 400
    assert all((link["href"] or "").startswith("#") for link in page.all_of("a"))
    assert not re.search(r"https?:|url\(|@import", confused.to_html(picture))
    assert not Page(confused.to_html()).all_of("img")


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_five_classes_or_fewer_are_told_and_chosen_by_top1(classes: int) -> None:
    """Net "sure" has the lower top-1 error; of six classes "broad" has the lower top-5 error."""
    truth = np.arange(40) % classes
    sure = np.full((40, classes), 0.2, np.float32)
    sure[np.arange(40), truth] = 0.9
    sure[:8] = 1 - sure[:8]  # there the class comes last
    broad = np.full((40, classes), 0.2, np.float32)
    broad[np.arange(40), (truth + 1) % classes] = 0.9
    broad[np.arange(40), truth] = 0.5  # always the second guess

    def net(name: str, posteriors: NDArray[np.float32]) -> EvaluatedNet:
        return EvaluatedNet(
            name=name, arch="D", batch_norm=False, image_size=32, train_scale=(37, 37),
            available=frozenset({("dense", 37)}), posteriors=lambda view, Q: posteriors,
        )  # fmt: skip

    report = build_report([net("broad", broad), net("sure", sure)], truth, [f"class {c}" for c in range(classes)])
    assert report.mistakes
    few = classes < 6
    assert f"run {'sure' if few else 'broad'})" in report.mistakes.what
    assert report.metrics["table3/sure/top1_error"] == pytest.approx(20.0)
    assert any("top5" in name for name in report.metrics) != few
    page = Page(report.to_html())
    for text in (report.to_text(), report.to_markdown(), report.to_html()):
        ours = html.unescape(text).replace("the paper's top-5 errors", "")  # a note on its Table 6
        assert ("top-5" in ours) != few
        assert ("five wrong" in ours) != few
        assert f"lowest {'top-1' if few else 'top-5'} error" in text
    for section, rows in page.tables.items():  # tables of errors have two rows of headings
        if section not in ("worst", "paper"):
            widths = {len(row) for row in (rows if section in ("matrix", "hardest", "confused") else rows[2:])}
            assert len(widths) == 1, section
    assert page.tables["table3"][1] == (["top-1"] if few else ["top-1", "top-5"])
    row = next(row for row in page.tables["table3"] if row[-1] == "sure")
    assert row[3:-1] == (["20.00"] if few else ["20.00", "20.00"])
