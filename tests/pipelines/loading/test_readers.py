"""Threads that read files: a few for fast storage, hundreds for remote storage."""

from __future__ import annotations

import threading
import time

from pipelines.loading.readers import Readers


def test_results_come_in_order() -> None:
    with Readers(3) as readers:
        assert readers.map(lambda index: index * index, list(range(50))) == [index * index for index in range(50)]
        assert readers.map(str, []) == []


def test_remote_storage_is_read_by_hundreds_of_threads_at_once() -> None:
    all_there = threading.Barrier(300)

    def wait_for_all(index: int) -> int:
        all_there.wait(timeout=60)  # raises unless 300 reads run at the same time
        return index

    with Readers(2) as readers:
        readers.map(lambda _: time.sleep(0.01), list(range(16)))
        assert readers.map(wait_for_all, list(range(300))) == list(range(300))


def test_images_that_need_computing_do_not_count_as_remote() -> None:
    """Built-in images are drawn when read: threads then wait for each other, not for storage."""

    def draw(index: int) -> int:
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            pass
        return index

    with Readers(4) as readers:
        readers.map(draw, list(range(40)))
        assert not readers.is_remote
