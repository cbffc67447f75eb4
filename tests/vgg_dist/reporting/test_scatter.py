"""Scatter and interval charts: points where the axes say, labels that overlap nothing, and what cannot be drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from vgg_dist.reporting import intervals, scatter
from vgg_dist.reporting.intervals import Interval, interval_chart
from vgg_dist.reporting.scatter import Point, log_axis, place_labels, scatter_chart

AREA = (52.0, 12.0, 408.0, 260.0)


def crowds() -> list[np.ndarray]:
    """Points at random, in a column (nets with as many parameters), on one spot, and along the edges."""
    rng = np.random.default_rng(0)
    column = np.column_stack([400 + rng.random(13), rng.uniform(20, 250, 13)])
    edges = np.array([[52, 12], [408, 12], [52, 260], [408, 260], [230, 12], [230, 260]], float)
    return [
        rng.uniform((52, 12), (408, 260), (13, 2)),
        column,
        np.full((13, 2), 200.0),
        edges,
        np.full((26, 2), [400.0, 20]),
    ]


@pytest.mark.parametrize("points", crowds())
def test_labels_overlap_neither_each_other_nor_a_point_and_stay_inside(points: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    sizes = np.column_stack([rng.uniform(9, 60, len(points)), np.full(len(points), 13.0)])
    corners = place_labels(points, sizes, AREA, [(60, 20, 400, 240)])
    assert None not in corners
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sizes, strict=True)]  # type: ignore[misc]
    for left, top, right, bottom in boxes:
        assert AREA[0] <= left < right <= AREA[2]
        assert AREA[1] <= top < bottom <= AREA[3]
        for x, y in points:
            nearest = min(max(x, left), right), min(max(y, top), bottom)
            assert math.dist(nearest, (x, y)) >= scatter.RADIUS
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_lone_label_is_beside_its_point_and_off_the_lines() -> None:
    size = np.array([[30.0, 13.0]])
    (corner,) = place_labels(np.array([[200.0, 100.0]]), size, AREA)
    assert corner is not None
    gap_x = max(corner[0] - 200, 200 - corner[0] - 30)
    assert scatter.RADIUS <= gap_x <= scatter.RADIUS + 1 + scatter.STEP
    assert abs(corner[1] + 6.5 - 100) <= scatter.STEP
    (moved,) = place_labels(np.array([[200.0, 100.0]]), size, AREA, [(60, 100, 400, 100)])
    assert moved is not None
    assert not moved[1] < 100 < moved[1] + 13


def test_without_room_a_label_is_left_out() -> None:
    corners = place_labels(np.full((3, 2), 20.0), np.full((3, 2), [30.0, 13.0]), (0, 0, 70, 40))
    assert 0 < sum(corner is not None for corner in corners) < 3


@pytest.mark.parametrize(
    ("low", "high"), [(0.06, 144.0), (133.0, 144.0), (4.2e-4, 19.6), (70.0, 11_000.0), (5.0, 5.0), (3e5, 4e7), (1e-6, 1e9)]
)
def test_a_logarithmic_axis_has_ticks_that_say_where_they_are(low: float, high: float) -> None:
    ticks, first, last = log_axis(low, high)
    assert first < math.log10(low) <= math.log10(high) < last
    assert 2 <= len(ticks) <= 8
    for at, text in ticks:
        assert first <= at <= last
        assert at == pytest.approx(math.log10(float(text.replace(",", ""))))


def test_points_are_where_the_axes_say() -> None:
    points = [Point("a", "c0", 1.0, 20.0, 1.5), Point("a-bn", "c2", 10.0, 12.0, None, "a"), Point("c", "c1", 100.0, 31.0)]
    chart = scatter_chart("error", "millions", "%", points)
    assert chart
    x, y = ({text: at for at, text in chart[ticks]} for ticks in ("x_ticks", "y_ticks"))
    at = {point["name"]: point["at"] for point in chart["points"]}
    assert [at[name][0] for name in ("a", "a-bn", "c")] == pytest.approx([x["1"], x["10"], x["100"]])
    (low, first), (high, last) = chart["y_ticks"][0], chart["y_ticks"][-1]
    for name, value in (("a", 20), ("a-bn", 12), ("c", 31)):
        says = float(first) + (at[name][1] - low) / (high - low) * (float(last) - float(first))
        assert says == pytest.approx(value)
    assert chart["twins"] == [(*at["a-bn"], *at["a"])]
    ((bar_x, top, _, bottom),) = chart["bars"]
    assert bar_x == at["a"][0]
    assert abs(top - bottom) == pytest.approx(3.0 * abs(high - low) / (float(last) - float(first)))
    assert y


def test_points_that_cannot_be_drawn_are_left_out() -> None:
    assert scatter_chart("t", "x", "y", []) is None
    assert scatter_chart("t", "x", "y", [Point("a", "c0", 0.0, 1.0), Point("b", "c0", 1.0, math.nan)]) is None
    chart = scatter_chart("t", "x", "y", [Point("a", "c0", 0.0, 1.0), Point("b", "c0", 1.0, 2.0, None, "a")])
    assert chart
    assert [point["name"] for point in chart["points"]] == ["b"]
    assert chart["twins"] == []


def test_intervals_are_where_the_axis_says_with_zero_and_the_other_value_in_sight() -> None:
    rows = [
        Interval("a", "holds", -1.0, -1.5, -0.5, [-1.2, -0.8], True, -7.0),
        Interval("b", "not resolved", 2, 1, 3, [], False),
    ]
    chart = interval_chart("t", "points", rows)
    assert chart
    (x0, first), (x1, last) = chart["x_ticks"][0], chart["x_ticks"][-1]

    def says(at: float) -> float:
        return float(first) + (at - x0) / (x1 - x0) * (float(last) - float(first))

    one, two = chart["rows"]
    assert [says(one["mean"]), *map(says, one["ends"]), says(one["mark"])] == pytest.approx([-1, -1.5, -0.5, -7])
    assert [says(at) for at in one["parts"]] == pytest.approx([-1.2, -0.8])
    assert says(chart["zero"]) == pytest.approx(0, abs=1e-9)
    assert two["mark"] is None
    assert one["up"] < two["text"] < two["up"] < chart["bottom"] < chart["height"]
    for row in chart["rows"]:
        assert all(intervals.LEFT <= at <= intervals.RIGHT for at in (*row["ends"], row["mean"]))
    assert interval_chart("t", "points", []) is None
