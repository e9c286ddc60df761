"""Settings of every test.

Threads enough to split a call in four, examples that are the same in every run, thread counts put back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before Numba is imported: a machine with two cores must be able to run four parts of a call at once.
os.environ.setdefault("NUMBA_NUM_THREADS", "4")

import pytest
from hypothesis import HealthCheck, settings

# Derandomised: whether a commit passes is decided by the commit. The first example of all compiles kernels, so there
# is no deadline.
settings.register_profile(
    "fastlstm", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fastlstm")


@pytest.fixture(autouse=True)
def _thread_count(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo whatever a test sets by `set_num_threads`."""
    from fastlstm.runtime import threads

    monkeypatch.setattr(threads, "_limit", threads._limit)
    yield
