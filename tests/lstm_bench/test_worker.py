"""A worker's turn ends when its engine's threads have come to rest, however short they have run."""

from __future__ import annotations

import hashlib
import threading
import time

from lstm_bench import worker


def test_it_waits_for_threads_that_still_run() -> None:
    """Of a thread that has just begun, Linux's clock of the process knows nothing yet."""
    much, ended = bytes(1 << 27), threading.Event()

    def work() -> None:
        hashlib.sha256(much)  # without the GIL
        ended.set()

    threading.Thread(target=work).start()
    assert worker._settle(most_s=60.0) < 60.0
    assert ended.is_set()


def test_it_waits_no_longer_than_told() -> None:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    start = time.perf_counter()
    worker._settle(most_s=0.2)
    stop.set()
    thread.join()
    assert time.perf_counter() - start >= 0.15
