"""Lines from a job's processes to its command: each once, in order, also where Ray's head is away for a while."""

from __future__ import annotations

import pickle
import threading

import pytest
from support.job_store import Store

from vgg_dist.ray_cluster import job_lines
from vgg_dist.ray_cluster.job_lines import Line, LineReader, LineSender, put_lines


def shown(store: Store) -> tuple[LineReader, list[tuple[str, str, bool]]]:
    lines: list[tuple[str, str, bool]] = []
    return LineReader(store, lambda run, line: lines.append((run, *line))), lines


def test_lines_of_several_runs_arrive_once_in_the_order_in_which_they_were_sent() -> None:
    store = Store()
    store.put("wish", "SIGTERM")
    reader, lines = shown(store)
    expected = []
    for number in range(12):
        put_lines(store, f"run/{number % 2}", [Line(f"{number} a", number % 3 == 0), Line(f"{number} b")])
        expected += [(f"run/{number % 2}", f"{number} a", number % 3 == 0), (f"run/{number % 2}", f"{number} b", False)]
        if number % 5 == 0:
            reader.read()
    reader.read()
    reader.read()
    assert lines == expected
    assert dict(store) == {"wish": "SIGTERM"}


def test_a_line_that_cannot_be_removed_at_first_is_not_shown_again() -> None:
    store = Store()
    put_lines(store, "first", [Line("once")])
    store.failures = 2
    reader, lines = shown(store)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            reader.read()
    reader.read()
    assert lines == [("first", "once", False)]
    assert not store


def test_a_sender_does_not_wait_for_a_head_that_is_away_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_lines, "RETRY_S", 0.01)
    store, there = Store(failures=3), threading.Event()

    def connect() -> Store:
        there.wait(20)
        return store

    sender = LineSender("first", connect)
    for number in range(5):
        sender.send([Line(str(number))])
    sender.send([])
    sender.flush(0.01)  # returns though nothing is sent
    assert not store
    there.set()
    sender.flush(20)
    reader, lines = shown(store)
    reader.read()
    assert [text for _, text, _ in lines] == ["0", "1", "2", "3", "4"]


def test_a_sender_travels_to_another_process() -> None:
    sender = LineSender("first", Store)
    sender.send([Line("here")])
    sender.flush(20)
    assert pickle.loads(pickle.dumps(sender)).run == "first"
