"""How long a training still takes, from the times at which its steps were done."""

from __future__ import annotations

import pytest

from vgg_dist.launch.time_left import TimeLeft


def test_the_time_left_is_of_many_intervals() -> None:
    """Steps of a second, in intervals that now and then take five times as long: the last of them alone would say 5000 s."""
    left = TimeLeft(epochs=10, max_steps=None)
    assert left.after(0, 0.0, 0.0) is None
    now, told = 0.0, []
    for step in range(1, 101):
        now += 5.0 if step % 10 == 0 else 1.0
        told.append(left.after(step, step / 100, now))
        if step == 50:
            left.interrupted()
            now += 1000.0  # a validation
    assert told[0] == pytest.approx(999.0)
    late = [value for value in told[60:] if value is not None]
    assert len(late) == 40
    for step, value in enumerate(late, start=61):
        assert value == pytest.approx((1000 - step) * 1.4, rel=0.15)
    steps = TimeLeft(epochs=10, max_steps=20)
    steps.after(1, 0.01, 0.0)
    assert steps.after(2, 0.02, 3.0) == pytest.approx(18 * 3.0)
    assert steps.after(25, 0.25, 72.0) == 0.0
