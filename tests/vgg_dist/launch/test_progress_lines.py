"""Progress lines: what they say, and that none is wider than 79 columns."""

from __future__ import annotations

import pytest

from vgg_dist.launch.progress_lines import WIDTH, ProgressLines, describe_limit, wrapped
from vgg_dist.metric_names import Record
from vgg_dist.ray_cluster.job_lines import Line

TRAINING = {"epoch": 0.25, "train/loss": 2.5494, "images_per_second": 99.94, "lr": 0.003}


def record(step: int, time: float, **metrics: float) -> Record:
    return {"step": step, "time": time, "metrics": metrics}


def test_a_record_of_steps_is_a_live_line_with_the_time_left() -> None:
    lines = ProgressLines(epochs=2, max_steps=None)
    first = lines.of_record(record(6, 100.0, **TRAINING))
    assert first == [Line("step      6  epoch 0.25/2  loss 2.549  99.9 images/s  lr 0.003", is_live=True)]
    # A quarter of an epoch took 60 s, and one and a half are left.
    (second,) = lines.of_record(record(12, 160.0, **TRAINING | {"epoch": 0.5, "images_per_second": 412.6}))
    assert second.text == "step     12  epoch 0.50/2  loss 2.549  413 images/s  lr 0.003  6:00 left"


def test_a_validation_is_a_line_that_stays_with_the_errors_that_there_are() -> None:
    lines = ProgressLines(epochs=2, max_steps=None, prefix="e-256  ")
    values = {"val/loss": 1.25, "val/top1_error": 30.0}
    text = "e-256  step      7  validation: loss 1.250  top-1 error 30.00 %"
    assert lines.of_record(record(7, 0.0, **values)) == [Line(text)]
    assert lines.of_record(record(7, 0.0, **values, **{"val/top5_error": 2.5})) == [Line(f"{text}  top-5 error 2.50 %")]


@pytest.mark.parametrize(("prefix", "left_out"), [("", ""), ("d-256-512  ", "lr "), ("reproduce-e-jitter  ", "step ")])
def test_no_line_is_wider_than_79_columns(prefix: str, left_out: str) -> None:
    """The paper's longest run, on a fast machine, at its end; the fields that matter least make room for a run's name."""
    lines = ProgressLines(epochs=74, max_steps=None, prefix=prefix)
    values = {"epoch": 73.99, "train/loss": 6.9078, "images_per_second": 12345.6, "lr": 1e-05}
    lines.of_record(record(370_000, 0.0, **values | {"epoch": 1.0}))
    (line,) = lines.of_record(record(370_370, 90_000.0, **values | {"epoch": 1.25}))
    assert len(line.text) <= WIDTH
    assert line.text.startswith(prefix)
    assert line.text.endswith(" left")
    assert "loss 6.908  12346 images/s" in line.text
    assert not left_out or left_out not in line.text.removeprefix(prefix)
    validation = {"val/loss": 6.9078, "val/top1_error": 100.0, "val/top5_error": 100.0}
    assert len(ProgressLines(74, None).of_record(record(370_370, 0.0, **validation))[0].text) <= WIDTH


@pytest.mark.parametrize(
    ("loader", "step", "expected"),
    [
        (8000.4, 3599.6, ["loader 8000 images/s, step 3600 images/s: the step limits"]),
        (
            2100.0,
            3600.0,
            [
                "loader 2100 images/s, step 3600 images/s: the loader limits",
                "  more CPUs per worker, shards, or nearer storage make it faster",
            ],
        ),
    ],
)
def test_the_slower_of_loader_and_step_limits(loader: float, step: float, expected: list[str]) -> None:
    values = {"loader_images_per_second": loader, "step_images_per_second": step}
    assert describe_limit(values) == expected
    lines = ProgressLines(2, None).of_record(record(20, 0.0, **TRAINING, **values))
    assert [line.text for line in lines[1:]] == expected


def test_a_long_note_is_wrapped_and_a_path_in_it_is_not_cut() -> None:
    path = "/data/" + "x" * 90 + "/a b.jpg"
    lines = wrapped(f"left out 3 images that cannot be decoded, such as {path} and others of the same folder")
    assert [len(line) > WIDTH for line in lines].count(True) <= 1
    assert path.partition(" ")[0] in " ".join(lines)
    assert wrapped("short") == ["short"]
