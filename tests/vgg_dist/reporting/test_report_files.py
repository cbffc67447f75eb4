"""The report for other programs: predictions for every image, errors by class, the tables as CSV and LaTeX."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from numpy.typing import NDArray

from vgg_dist.reporting.paper_tables import EvaluatedNet, Report, build_report

IMAGES = 300


def report_of(posteriors: NDArray[np.float32], labels: NDArray[np.int64], size: int = 32) -> Report:
    net = EvaluatedNet(
        name="a_run", arch="D", batch_norm=False, image_size=size, train_scale=(256, 512),
        available=frozenset({("dense", 384)}), posteriors=lambda view, Q: posteriors,
    )  # fmt: skip
    names = [f"class, {c}" for c in range(posteriors.shape[1])]
    return build_report([net], labels, names, file_name=lambda image: f'val/"{image}".png')


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def random_posteriors(classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(classes)
    posteriors = rng.dirichlet(np.full(classes, 0.3), IMAGES).astype(np.float32)
    return posteriors, rng.integers(0, classes, IMAGES)


@pytest.mark.parametrize("classes", [3, 12, 40])
def test_every_image_worst_first(classes: int) -> None:
    posteriors, labels = random_posteriors(classes)
    report = report_of(posteriors, labels)
    rows = rows_of(report.files()["predictions.csv"])
    first, highest = posteriors.argmax(1), posteriors.max(1)
    order = sorted(range(IMAGES), key=lambda i: (first[i] == labels[i], -highest[i], i))
    assert [row["file"] for row in rows] == [f'val/"{image}".png' for image in order]
    for row, image in zip(rows, order, strict=True):
        assert row["truth"] == f"class, {labels[image]}"
        assert row["right"] == ("yes" if first[image] == labels[image] else "no")
        best = np.argsort(-posteriors[image], kind="stable")[:5]
        assert [row[f"guess {k + 1}"] for k in range(len(best))] == [f"class, {c}" for c in best]
        told = [float(row[f"confidence {k + 1}"]) for k in range(len(best))]
        np.testing.assert_allclose(told, posteriors[image][best], atol=1e-6)
    assert report.mistakes
    wrong = [image for image in order if first[image] != labels[image]]
    assert [worst.image for worst in report.mistakes.worst] == wrong[:24]
    assert report.mistakes.wrong == len(wrong)


@pytest.mark.parametrize("classes", [4, 30, 31])
def test_confusion_and_errors_by_class_by_counting(classes: int) -> None:
    posteriors, labels = random_posteriors(classes)
    labels[labels == 1] = 0  # a class without images
    report = report_of(posteriors, labels)
    first = posteriors.argmax(1)
    counted = np.zeros((classes, classes), int)
    for label, guess in zip(labels, first, strict=True):
        counted[label, guess] += 1
    assert report.mistakes
    expected = tuple(map(tuple, counted.tolist())) if classes <= 30 else None
    assert report.mistakes.confusion == expected
    rows = {row["class"]: row for row in rows_of(report.files()["classes.csv"])}
    assert set(rows) == {f"class, {c}" for c in set(labels.tolist())}
    for c in set(labels.tolist()):
        row, of_class = rows[f"class, {c}"], labels == c
        missed = sum(c not in np.argsort(-p, kind="stable")[:5] for p in posteriors[of_class])
        assert int(row["images"]) == of_class.sum()
        assert int(row["wrong first guess"]) == of_class.sum() - counted[c, c]
        assert float(row["top-1 error"]) == pytest.approx(100 * (1 - counted[c, c] / of_class.sum()), abs=0.005)
        if classes > 5:
            assert int(row["all five wrong"]) == missed
        else:
            assert "top-5 error" not in row


def test_tables_beside_the_papers() -> None:
    posteriors, labels = random_posteriors(1000)
    report = report_of(posteriors, labels, size=224)
    errors = 100 * np.mean(posteriors.argmax(1) != labels)
    files = report.files()
    assert {f"table{n}.{form}" for n in (3, 4, 5, 6) for form in ("csv", "tex")} <= set(files)
    rows = rows_of(files["table3.csv"])
    assert len(rows) == 12
    (ours,) = (row for row in rows if row["run"])
    assert (ours["net"], ours["S"], ours["paper top-1"], ours["run"]) == ("D", "[256;512]", "25.6", "a_run")
    assert float(ours["ours top-1"]) == pytest.approx(errors, abs=1e-4)
    assert float(ours["difference top-1"]) == pytest.approx(errors - 25.6, abs=1e-4)
    assert {row["ours top-1"] for row in rows if not row["run"]} == {""}
    body = files["table3.tex"].partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    lines = body.strip().splitlines()
    assert len(lines) == 12
    assert {line.count("&") for line in lines} == {8}
    assert rf"D & {{[}}256;512{{]}} & 384 & 25.6 & 8.1 & {errors:.2f} &" in body
    assert r"A & 256 & 256 & 29.6 & 10.4 & -- & -- & -- & -- \\" in lines


def test_tables_without_the_papers_nets_have_our_rows_alone() -> None:
    report = report_of(*random_posteriors(12))
    files = report.files()
    assert "table4.tex" not in files  # nothing of it was run
    assert "paper" not in files["table3.tex"]
    body = files["table3.tex"].partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip()
    errors = report.metrics["table3/a_run/top1_error"], report.metrics["table3/a_run/top5_error"]
    assert body == rf"D, 32 px & {{[}}256;512{{]}} & 384 & {errors[0]:.2f} & {errors[1]:.2f} \\"
