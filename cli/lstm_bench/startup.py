"""The first result of a new process: with nothing cached, and with the kernels that the first one left behind."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence

from .bench import Entrant
from .cases import CASES
from .remote import EngineFailed, Remote

_CASE = CASES["vad-sequence"]


def first_result_s(entrant: Entrant, threads: int, limit_s: float, cache: str) -> float:
    """Seconds from starting the process to its first y."""
    start = time.perf_counter()
    remote = Remote(
        entrant.engine, threads, entrant.path, variables={"NUMBA_CACHE_DIR": cache, "FASTLSTM_CACHE_DIR": cache}
    )
    try:
        remote.ask("load", limit_s, case=_CASE.to_json(), mode="inference", dtype="float32", seed=0)
        return time.perf_counter() - start
    finally:
        remote.stop()


def measure(entrants: Sequence[Entrant], threads: int, limit_s: float) -> dict[str, dict[str, float]]:
    """`cold_s` and `warm_s` of every engine that starts."""
    found = {}
    for entrant in entrants:
        with tempfile.TemporaryDirectory(prefix="lstm-bench-", ignore_cleanup_errors=True) as cache:
            try:
                cold, warm = (first_result_s(entrant, threads, limit_s, cache) for _ in range(2))
            except EngineFailed:
                continue  # the table has the gap and its reason already
            found[entrant.label] = {"cold_s": cold, "warm_s": warm}
    return found
