"""Which worker is named as slow, and when."""

from __future__ import annotations

from vgg_dist.worker.slow_worker import SlowWorker


def log(rank: int, slowest: float, median: float) -> dict[str, float]:
    return {"slowest_worker": rank, "step_seconds/slowest": slowest, "step_seconds/median": median}


def test_a_worker_is_named_once_after_three_slow_logs_in_a_row() -> None:
    slow = SlowWorker(["one", "two", "three"])
    logs = [log(2, 0.31, 0.2), log(2, 0.31, 0.2), log(2, 0.29, 0.2)]  # the third is not slow
    logs += [log(2, 0.4, 0.2), log(1, 0.4, 0.2), {"val/loss": 1.0}, log(1, 0.4, 0.2), log(1, 0.5, 0.25), log(1, 0.5, 0.25)]
    assert [number for number, metrics in enumerate(logs) if slow.note(metrics)] == [7]
    again = [log(1, 0.2, 0.2), *[log(1, 0.6, 0.2)] * 5]
    (line,) = [line for metrics in again if (line := slow.note(metrics))]
    assert line == (
        "worker 1, on two, slows the others down: it computes and reads for 0.60 s in each step,"
        " the median worker for 0.20 s"
    )
