"""Trainings side by side: which settings differ, the order, and what the pictures show."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from vgg_dist.reporting.comparison import compare, compare_by_data, draw_curves, draw_parallel, encode_png, leaders, to_html
from vgg_dist.tracking import RunRecord

EARLY = "stopped early at epoch 1"


def record(name: str, errors: list[float], status: str = "FINISHED", note: str = "", **settings: str) -> RunRecord:
    epochs = [float(k + 1) for k in range(len(errors))]
    validations = {
        "val/top1_error": list(zip(epochs, errors, strict=True)),
        "val/top5_error": [(epoch, error / 10) for epoch, error in zip(epochs, errors, strict=True)],
        "val/loss": [(epoch, error / 100) for epoch, error in zip(epochs, errors, strict=True)],
    }
    metrics = {"epoch": epochs[-1], "images_per_second": 100.0} if errors else {}
    common = {"name": name, "epochs": "3", "storage_path": f"/runs/{name}", "momentum": "0.9"}
    return RunRecord(name, name, status, note, 3725.0, common | settings, metrics, validations if errors else {})


@pytest.fixture
def runs() -> list[RunRecord]:
    return [
        record("high", [90, 80, 85], arch="A", lr="0.1", train_scale="256"),
        record("low", [70, 50, 40], arch="A", lr="0.010000000001", train_scale="256-512"),
        record("<b>lost", [], "FAILED", "its process was lost", arch="A", lr="10.0", train_scale="256"),
        record("early", [60], "KILLED", EARLY, arch="A", lr="0.05", train_scale="256"),
    ]


def test_what_differs_is_shown_and_the_best_epoch_counts(runs: list[RunRecord]) -> None:
    comparison = compare(runs)
    assert comparison.settings == ("train_scale", "lr")
    assert comparison.common == {"arch": "A", "epochs": "3", "momentum": "0.9"}
    assert comparison.cells() == [
        ("low", "256-512", "0.01", "3", "40.00", "4.00", "0.400", "40.00", "4.00", "3", "100", "1:02:05", "finished"),
        ("early", "256", "0.05", "1 of 3", *("60.00", "6.00", "0.600", "60.00", "6.00", "1"), "100", "1:02:05", EARLY),
        ("high", "256", "0.1", "3", "85.00", "8.50", "0.850", "80.00", "8.00", "2", "100", "1:02:05", "finished"),
        ("<b>lost", "256", "10", *(8 * ["-"]), "1:02:05", "its process was lost"),
    ]
    *lines, legend = comparison.to_text().splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["low", "early", "high", "<b>lost"]
    assert "lowest top-5 error" in legend


def test_the_best_is_by_top5_error_and_a_searchs_by_its_metric() -> None:
    one = record("one", [30, 20, 25])
    one.validations["val/top5_error"] = [(1.0, 4.0), (2.0, 3.0), (3.0, 3.0)]
    one.validations["val/loss"] = [(1.0, 0.1), (2.0, 0.2), (3.0, 0.3)]
    two = record("two", [22, 24])
    two.validations["val/top5_error"] = [(1.0, 5.0), (2.0, 2.0)]

    def best(metric: str | None) -> list[tuple[str, float]]:
        return [(row.run.name, row.best.epoch) for row in compare([one, two], metric).rows if row.best]

    assert best(None) == [("one", 2.0), ("two", 2.0)]
    assert best("top1_error") == [("one", 2.0), ("two", 1.0)]
    assert best("top5_error") == [("two", 2.0), ("one", 2.0)]
    assert best("loss") == [("one", 1.0), ("two", 1.0)]
    assert "the lowest loss" in to_html([compare([one, two], "loss")], "a search")


def test_of_few_classes_there_is_no_top5_error(runs: list[RunRecord]) -> None:
    """Nor where an older version has logged it for the first epochs."""
    del runs[1].validations["val/top5_error"]
    del runs[3].validations["val/top5_error"][0]
    comparison = compare(runs)
    column = comparison.headings.index("best top-5")
    assert [(cells[0], cells[column - 1], cells[column]) for cells in comparison.cells()] == [
        ("low", "40.00", "-"), ("early", "60.00", "-"), ("high", "80.00", "8.00"), ("<b>lost", "-", "-"),
    ]  # fmt: skip
    to_html([comparison], "few")


def test_the_page_holds_every_run_and_asks_for_nothing(runs: list[RunRecord]) -> None:
    training = {"low": {"train/loss": [(0.5, 4.0), (1.0, 3.0)], "lr": [(0.5, 0.1), (1.0, 0.01)]}}
    page = to_html(compare_by_data(runs), "Four & more", training)
    assert page.count("<tr") == 5
    assert "&lt;b&gt;lost" in page
    assert "<b>lost" not in page
    assert "<h1>Four &amp; more</h1>" in page
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert titles == [
        "Training loss",
        "Validation loss",
        "Validation top-1 error (%)",
        "Validation top-5 error (%)",
        "Learning rate",
    ]
    assert page.count("<svg") == len(titles) + 1  # the settings
    assert not re.search(r"(src|href)=|url\((?!#)|@import|<script", page)


def test_curves_are_the_errors(runs: list[RunRecord]) -> None:
    axes = draw_curves(compare(runs)).axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert drawn == {
        "low": [[1, 70], [2, 50], [3, 40]],
        "early": [[1, 60]],
        "high": [[1, 90], [2, 80], [3, 85]],
    }


def test_parallel_lines_go_through_each_runs_values() -> None:
    rates = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
    runs = [record(f"run{k}", [50 - 10 * k], lr=str(lr), init=["he", "glorot"][k % 2]) for k, lr in enumerate(rates)]
    figure = draw_parallel(compare(runs))
    (lines,) = (made for made in figure.axes[0].collections if isinstance(made, LineCollection))
    found = sorted(np.array(segment)[:, 1].tolist() for segment in lines.get_segments())
    log = (np.log10(rates) + 3) / 2
    expected = [[log[k], [0.25, 0.75][k % 2], (4 - k) / 4] for k in range(5)]  # lr, init, error
    np.testing.assert_allclose(found, sorted(expected), atol=1e-12)


def test_two_hundred_runs_and_none_at_all_are_drawn() -> None:
    many = compare([record(f"run{k}", [90 - k / 10, 80 - k / 10], lr=str(0.001 * (k + 1))) for k in range(200)])
    axes = draw_curves(many).axes[0]
    assert len(axes.get_lines()) == 200
    assert sum(line.get_color() != "0.75" for line in axes.get_lines()) == 10
    assert encode_png(draw_parallel(many)).startswith(b"\x89PNG")
    none = compare([record("a", [], lr="1"), record("b", [], lr="2")])
    assert "2 runs" in to_html([none], "nothing yet")


def test_runs_on_other_data_are_apart() -> None:
    runs = [record(f"run{k}", [50.0 - k], data="/data/pets" if k == 1 else "/data/imagenet", lr=str(k)) for k in range(4)]
    comparisons = compare_by_data(runs)
    assert [(one.data, [row.run.name for row in one.rows]) for one in comparisons] == [
        ("/data/imagenet", ["run3", "run2", "run0"]), ("/data/pets", ["run1"]),
    ]  # fmt: skip
    assert [one.settings for one in comparisons] == [("lr",), ()]
    page = to_html(comparisons, "two")
    first, second = page.split("1 run on /data/pets")
    assert "3 runs on /data/imagenet" in first
    assert ("run1" in first, "run1" in second, "run3" in second) == (False, True, False)


def test_epochs_are_one_column_whatever_was_planned() -> None:
    runs = [record("done", [3, 2, 1]), record("begun", [3]), record("longer", [3, 2]), record("waiting", [])]
    runs[2].settings["epochs"] = "2"
    comparison = compare(runs)
    assert comparison.settings == ()
    assert comparison.headings.count("epochs") == 1
    column = comparison.headings.index("epochs")
    assert {cells[0]: cells[column] for cells in comparison.cells()} == {
        "done": "3", "begun": "1 of 3", "longer": "2", "waiting": "-",
    }  # fmt: skip


def test_many_runs_with_long_histories_make_a_page_of_bounded_size() -> None:
    epochs = np.linspace(0, 74, 250).tolist()
    runs = [record(f"run{k}", [90 - k / 10] * 74, lr=str(0.001 * (k + 1)), seed=str(k)) for k in range(600)]
    comparisons = compare_by_data(runs)
    shown = leaders(comparisons)
    assert shown == [f"run{k}" for k in range(599, 589, -1)]
    history = {name: [(epoch, 1 + epoch) for epoch in epochs] for name in ("train/loss", "images_per_second")}
    page = to_html(comparisons, "many", dict.fromkeys(shown, history))
    assert page.count("<tr") == 601
    assert "200 of 590 others" in page
    assert len(page) < 2_500_000
