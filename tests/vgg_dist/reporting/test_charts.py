"""Line charts: points where the values are, ticks that say so, and curves that cannot be drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vgg_dist.reporting.charts import BOTTOM, LEFT, RIGHT, TOP, Line, line_chart
from vgg_dist.reporting.comparison.axes import MOST_TICKS, setting_axis
from vgg_dist.tracking.read_runs import POINTS, thinned


def points_of(path: str) -> np.ndarray:
    return np.array([[float(number) for number in point.split(",")] for point in path.split()])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.0, 47.2), (-0.02, 0.013), (5e-5, 7e-5), (1e6, 3e6), (8.0, 8.0)])
def test_points_agree_with_the_ticks(low: float, high: float) -> None:
    """Whatever a tick says, a point of that value is as high."""
    values = np.linspace(low, high, 9)
    chart = line_chart("loss", "epoch", [Line("a", "c0", list(enumerate(values.tolist())))])
    assert chart
    (y, says), (y_last, says_last) = chart["y_ticks"][0], chart["y_ticks"][-1]
    assert 2 <= len(chart["y_ticks"]) <= 12
    assert (y, y_last) == pytest.approx((BOTTOM, TOP))
    scale = (float(says_last) - float(says)) / (y_last - y)
    path = points_of(chart["lines"][0]["path"])
    np.testing.assert_allclose(float(says) + scale * (path[:, 1] - y), values, atol=abs(scale) * 0.06)
    assert path[0, 0] == LEFT
    assert path[-1, 0] == RIGHT
    assert [text for _, text in chart["x_ticks"]] == ["0", "2", "4", "6", "8"]


def test_learning_rates_step_down_on_a_logarithmic_axis() -> None:
    chart = line_chart("lr", "epoch", [Line("a", "c0", [(0, 0.1), (2, 0.01), (4, 0.001)])], log=True, steps=True)
    assert chart
    ticks = {text: at for at, text in chart["y_ticks"]}
    path = points_of(chart["lines"][0]["path"])
    assert path[:, 1] == pytest.approx([ticks[text] for text in ("0.1", "0.1", "0.01", "0.01", "0.001")], abs=0.06)
    assert path[1, 0] == path[2, 0]


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert line_chart("loss", "epoch", []) is None
    assert line_chart("loss", "epoch", [Line("a", "c0", [(1, math.nan), (2, math.inf)])]) is None
    assert line_chart("lr", "epoch", [Line("a", "c0", [(1, 0.0)])], log=True) is None
    chart = line_chart("loss", "epoch", [Line("a", "c0", [(1, 2.0), (2, math.nan), (3, 1.0)]), Line("b", "c1", [])])
    assert chart
    (line,) = chart["lines"]
    assert len(points_of(line["path"])) == len(line["dots"]) == 2


def test_a_run_that_diverged_does_not_flatten_the_others() -> None:
    chart = line_chart("loss", "epoch", [Line("bad", "rest", [(1, 1e30)]), Line("good", "c0", [(1, 2.0), (2, 1.0)])])
    assert chart
    assert float(chart["y_ticks"][-1][1]) == 2


def test_histories_are_thinned() -> None:
    epochs = np.linspace(0, 74, 52_345)
    noisy = np.sin(epochs) + np.random.default_rng(0).normal(size=len(epochs))
    thin = np.array(thinned(list(zip(epochs.tolist(), noisy.tolist(), strict=True))))
    assert len(thin) == POINTS
    np.testing.assert_allclose(thin[:, 1], np.sin(thin[:, 0]), atol=0.35)  # the mean of 209 draws is within 5 / sqrt(209)
    rates = np.where(epochs < 50, 0.1, 0.01)
    stepped = thinned(list(zip(epochs.tolist(), rates.tolist(), strict=True)), stepped=True)
    assert [value for _, value in stepped] == [0.1, 0.01, 0.01]
    assert stepped[1][0] == epochs[epochs >= 50][0]
    assert thinned([(0.0, math.nan), (1.0, 2.0)]) == [(1.0, 2.0)]
    assert thinned([]) == []


@pytest.mark.parametrize("count", [1, 4, 11, 57])
def test_labels_of_an_axis_have_room(count: int) -> None:
    axis = setting_axis([f"from run {k}" for k in range(count)])
    heights = [at for at, _ in axis.ticks]
    assert 1 <= len(heights) <= MOST_TICKS
    assert np.diff(heights).min(initial=1) >= 0.9 / MOST_TICKS
    assert len(set(axis.positions.tolist())) == count
