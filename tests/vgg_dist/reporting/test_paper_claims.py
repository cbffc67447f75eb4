"""The paper's claims in the evaluation report: differences, noise and verdicts against NumPy on made-up posteriors."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from support.page import Page

from vgg_dist.paper import several_scales, single_scale
from vgg_dist.reporting.paired import MARGIN
from vgg_dist.reporting.paper_tables import EvaluatedNet, Report, build_report, claims_table
from vgg_dist.reporting.paper_tables.claims import plan_claims

IMAGES, CLASSES = 4000, 10
LABELS = np.random.default_rng(0).integers(0, CLASSES, IMAGES)
LOW, HIGH, JITTER = (37, 37), (55, 55), (37, 73)
NETS = [("A", LOW), ("A-LRN", LOW), *((arch, scale) for arch in "DE" for scale in (LOW, HIGH, JITTER))]
Files = dict[tuple[str, int], NDArray[np.float32]]


def files_of(rng: np.random.Generator, scale: tuple[int, int], strength: float) -> Files:
    """Posteriors of the views and scales that the paper's tables need, the better the higher `strength`."""
    found: Files = {}
    for view in ("dense", "crops", "center"):
        for size in {single_scale(scale), *several_scales(scale, 32)}:
            logits = rng.normal(size=(IMAGES, CLASSES))
            logits[np.arange(IMAGES), LABELS] += strength
            found[view, size] = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    return found


def trained(seed: int, strengths: dict[str, float]) -> dict[tuple[str, tuple[int, int]], tuple[EvaluatedNet, Files]]:
    found = {}
    for number, (arch, scale) in enumerate(NETS):
        files = files_of(np.random.default_rng([seed, number]), scale, strengths[arch])
        net = EvaluatedNet(
            name=f"{arch}-{scale[1]}-{seed}", arch=arch, batch_norm=False, image_size=32, train_scale=scale,
            available=frozenset(files), posteriors=lambda view, Q, files=files: files[view, Q],  # type: ignore[misc]
        )  # fmt: skip
        found[arch, scale] = net, files
    return found


def several(files: Files, view: str) -> NDArray[np.float64]:
    views = ("dense", "crops") if view == "both" else (view,)
    return np.mean([p.astype(np.float64) for (v, _), p in files.items() if v in views], axis=0)


def wrong(posteriors: NDArray[np.floating]) -> NDArray[np.float64]:
    return 100.0 * (posteriors.argmax(axis=1) != LABELS)


def rows_of(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(report.files()["claims.csv"])))


def view_of(row: dict[str, str]) -> str:
    """Dense for the claim as the paper compares it."""
    return next(
        (view for view, name in (("crops", "multi-crop"), ("center", "centre crop")) if f", {name} (" in row["claim"]),
        "dense",
    )


SAME = {"A": 1.0, "A-LRN": 1.0, "D": 1.6, "E": 1.6}


@pytest.fixture(scope="module")
def nets() -> dict[tuple[str, tuple[int, int]], tuple[EvaluatedNet, Files]]:
    return trained(1, SAME)


@pytest.fixture(scope="module")
def report(nets: dict[tuple[str, tuple[int, int]], tuple[EvaluatedNet, Files]]) -> Report:
    return build_report([net for net, _ in nets.values()], LABELS, [str(c) for c in range(CLASSES)])


def test_every_difference_against_numpy(
    nets: dict[tuple[str, tuple[int, int]], tuple[EvaluatedNet, Files]], report: Report
) -> None:
    files = {net: of_net for net, (_, of_net) in nets.items()}

    def one(arch: str, scale: tuple[int, int], view: str) -> NDArray[np.float64]:
        return wrong(files[arch, scale][view, single_scale(scale)])

    def seen(archs: str, view: str) -> NDArray[np.float64]:
        return wrong(np.mean([several(files[arch, JITTER], view) for arch in archs], axis=0))

    # Each claim as the paper compares it, then by crops and by the centre crop, except for the one about the views.
    expected = []
    for view in ("dense", "crops", "center"):
        expected.append((("A-LRN 37", "A 37", "0.1"), one("A-LRN", LOW, view) - one("A", LOW, view)))
    for view in ("dense", "crops", "center"):
        for arch, published in (("D", "-2.6"), ("E", "-2.3")):
            expected.append(((f"{arch} 37", "A 37", published), one(arch, LOW, view) - one("A", LOW, view)))
    for view in ("dense", "crops", "center"):
        for arch, scale, published in (("D", LOW, "-1.4"), ("D", HIGH, "-1.2"), ("E", LOW, "-1.8"), ("E", HIGH, "-1.4")):
            pair = f"{arch} [37;73]", f"{arch} {scale[0]}", published
            expected.append((pair, one(arch, JITTER, view) - one(arch, scale, view)))
    for view in ("dense", "crops", "center"):
        for arch, published in (("D", "-0.8"), ("E", "-0.7")):
            pair = f"{arch} [37;73], several scales", f"{arch} [37;73], one scale", published
            expected.append((pair, seen(arch, view) - one(arch, JITTER, view)))
    for arch in "DE":
        for view, name, published in (("dense", "dense", "-0.4"), ("crops", "multi-crop", "-0.2")):
            pair = f"{arch} [37;73], multi-crop & dense", f"{arch} [37;73], {name}", published
            expected.append((pair, seen(arch, "both") - seen(arch, view)))
    for view in ("both", "crops", "center"):
        for arch in "DE":
            expected.append((("D + E [37;73]", f"{arch} [37;73]", "-0.7"), seen("DE", view) - seen(arch, view)))

    rows = rows_of(report)
    assert [(row["first"], row["second"], row["paper difference"]) for row in rows] == [pair for pair, _ in expected]
    for view in ("multi-crop", "centre crop"):
        assert sum(f", {view} (32 px)" in row["claim"] for row in rows) == 11
    for row, (_, by_image) in zip(rows, expected, strict=True):
        error = by_image.std() / IMAGES**0.5
        assert float(row["difference"]) == pytest.approx(by_image.mean(), abs=1e-3), row
        assert float(row["standard error over images"]) == pytest.approx(error, rel=1e-4)
        assert float(row["low"]) == pytest.approx(by_image.mean() - 1.96 * error, abs=1e-3)


def test_with_one_training_only_the_same_nets_seen_in_two_ways_are_resolved(report: Report) -> None:
    verdicts = {(row["first"], row["second"]): row["verdict of the pair"] for row in rows_of(report)}
    assert verdicts["D 37", "A 37"] == "not resolved"  # 15 points better, but of one training
    assert verdicts["D [37;73], several scales", "D [37;73], one scale"] == "holds"
    assert verdicts["D + E [37;73]", "E [37;73]"] == "holds"


def test_with_two_trainings_the_nets_are_paired_in_their_order() -> None:
    trainings = [trained(seed, SAME) for seed in (1, 2)]
    everything = [net for of_seed in trainings for net, _ in of_seed.values()]
    report = build_report(everything, LABELS, [str(c) for c in range(CLASSES)])
    fused = [
        row for row in report.tables[3].rows if row.ours and row.cells[0].startswith("D + E") and row.mean.view == "both"
    ]
    assert [row.nets for row in fused] == [("D-73-1", "E-73-1"), ("D-73-2", "E-73-2")]  # Table 6 has a fusion for each
    assert all(len({row.metric for row in table.rows}) == len(table.rows) for table in report.tables)
    rows = rows_of(report)
    row = next(row for row in rows if (row["first"], row["second"]) == ("E 37", "A 37"))
    differences = [
        (wrong(of_seed["E", LOW][1]["dense", 37]) - wrong(of_seed["A", LOW][1]["dense", 37])).mean() for of_seed in trainings
    ]
    assert (row["trainings"], row["verdict of the pair"], row["verdict"]) == ("2", "holds", "holds")
    assert float(row["difference"]) == pytest.approx(np.mean(differences))
    assert float(row["sd over trainings"]) == pytest.approx(np.std(differences, ddof=1), rel=1e-4)
    errors = np.array(
        [[wrong(of_seed[net][1]["dense", single_scale(net[1])]).mean() for net in NETS] for of_seed in trainings]
    )
    noise = np.sqrt(errors.var(axis=0, ddof=1).mean())  # equally many trainings of each net, so the pooled one is the mean
    assert float(row["standard error of trainings"]) == pytest.approx(noise, rel=1e-4)  # times the root of 2 / 2
    half = np.hypot(stats.t.ppf(0.975, len(NETS)) * noise, 1.96 * float(row["standard error over images"]))
    assert float(row["high"]) - float(row["low"]) == pytest.approx(2 * half, rel=1e-4)
    fused = next(row for row in rows if row["first"] == "D + E [37;73]")
    assert float(fused["standard error of trainings"]) == 0


def test_a_net_trained_once_is_judged_by_the_noise_of_those_trained_twice() -> None:
    """A and A-LRN have three trainings, D and E one: E beside A has one pair, and the noise of the others."""
    first, *others = (trained(seed, SAME) for seed in (1, 2, 3))
    everything = [net for net, _ in first.values()]
    everything += [net for of_seed in others for (arch, _), (net, _) in of_seed.items() if arch in ("A", "A-LRN")]
    rows = rows_of(build_report(everything, LABELS, [str(c) for c in range(CLASSES)]))
    for view in ("dense", "crops", "center"):
        of_view = {(row["first"], row["second"]): row for row in rows if view_of(row) == view}
        row = of_view["E 37", "A 37"]
        assert (row["trainings"], row["sd over trainings"], row["verdict of the pair"]) == ("1", "", "holds")
        errors = [[wrong(of[net, LOW][1][view, 37]).mean() for of in (first, *others)] for net in ("A", "A-LRN")]
        noise = np.sqrt(np.var(errors, axis=1, ddof=1).mean())
        assert float(row["standard error of trainings"]) == pytest.approx(noise * 2**0.5, rel=1e-4)
        no_gain = of_view["A-LRN 37", "A 37"]
        assert float(no_gain["standard error of trainings"]) == pytest.approx(noise * (2 / 3) ** 0.5, rel=1e-4)


def test_one_pair_that_fails_decides_the_claim() -> None:
    """E is worse than A, D is better: deeper is not better as such."""
    nets = [net for seed in (1, 2, 3) for net, _ in trained(seed, SAME | {"E": 0.5}).values()]
    rows = [row for row in rows_of(build_report(nets, LABELS, [str(c) for c in range(CLASSES)])) if "deeper" in row["claim"]]
    assert [row["verdict of the pair"] for row in rows] == ["holds", "does not hold"] * 3  # in each view
    assert {row["verdict"] for row in rows} == {"does not hold"}


def test_a_gain_as_large_as_the_papers_counts(nets: dict[tuple[str, tuple[int, int]], tuple[EvaluatedNet, Files]]) -> None:
    """Both views beat crops alone by 0.2 points in the paper, so an interval that ends at -0.3 rules nothing out."""
    margins = {
        (comparison.first, comparison.second): comparison.margin
        for claim in plan_claims([net for net, _ in nets.values()], CLASSES)
        for comparison in claim.comparisons
    }
    assert margins["D [37;73], multi-crop & dense", "D [37;73], multi-crop"] == pytest.approx(0.2)
    assert margins["D [37;73], multi-crop & dense", "D [37;73], dense"] == pytest.approx(0.4)
    assert margins["D 37", "A 37"] == margins["A-LRN 37", "A 37"] == MARGIN


def test_the_page_and_the_text_name_each_claim_once_with_its_verdict(report: Report) -> None:
    page = Page(report.to_html())
    table = page.tables["claims"]
    named = [row[0] for row in table if "deeper is better" in row[0]]
    assert named == [f"deeper is better{view} (32 px)" for view in ("", ", multi-crop", ", centre crop")]
    assert [row[:2] for row in table if row[2:4] == ["E 37", "A 37"]] == [["", ""]] * 3  # the claim's second pair
    assert len([rect for rect in page.all_of("rect") if rect.get("class") == "mark"]) == 37  # the paper's, in the chart
    assert "The paper's claims" in report.to_text()
    assert report.to_markdown().count("| LRN does not help (32 px) |") == 1


def test_every_line_of_the_chart_says_what_is_compared_and_how(report: Report) -> None:
    drawn = claims_table.chart(report.claims)
    assert drawn is not None
    names = [row["name"] for row in drawn["rows"]]
    assert names.count("D 37 vs A 37") == names.count("D 37 vs A 37, multi-crop") == 1
    assert "D [37;73], several scales vs one scale, multi-crop" in names
    assert "D [37;73], multi-crop & dense vs dense" in names
    assert len(set(names)) == len(names) == 37


def test_without_a_pair_there_are_no_claims() -> None:
    files = files_of(np.random.default_rng(0), LOW, 1.0)
    net = EvaluatedNet(
        name="a", arch="A", batch_norm=False, image_size=32, train_scale=LOW, available=frozenset(files),
        posteriors=lambda view, Q: files[view, Q],
    )  # fmt: skip
    report = build_report([net], LABELS, [str(c) for c in range(CLASSES)])
    assert "claims.csv" not in report.files()
    assert "claims" not in report.to_text()
