"""A program as it is and with fastlstm in it, run in turn in one process; and what the program spends its time on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

Work = Callable[[], None]


def in_turn(plain: Work, ours: Work, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round of both, one after the other; the one that goes first changes."""
    seconds: dict[Work, list[float]] = {plain: [], ours: []}
    for k in range(rounds):
        for work in (plain, ours)[:: 1 - 2 * (k % 2)]:
            start = time.perf_counter()
            work()
            seconds[work].append(time.perf_counter() - start)
    return seconds[plain], seconds[ours]


def report(name: str, plain: list[float], ours: list[float], unit: str, per_round: float) -> None:
    """Medians of both, and the median of the rounds' ratios with the middle half of them."""
    ratios = sorted(a / b for a, b in zip(plain, ours, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    before, after = (statistics.median(seconds) / per_round for seconds in (plain, ours))
    times = f"{statistics.median(ratios):.2f} times as fast ({low:.2f} to {high:.2f}, {len(ratios)} rounds)"
    if unit.endswith("/s"):
        print(f"{name}: {1 / before:.0f} {unit} as it is, {1 / after:.0f} {unit} with fastlstm, {times}")
    else:
        print(f"{name}: {1e3 * before:.4g} ms {unit} as it is, {1e3 * after:.4g} ms {unit} with fastlstm, {times}")


def profile(name: str, work: Work, most: int = 6) -> None:
    """Print the share of the LSTM, forward and backward, in the program as it is, and what else takes most."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        work()
        total = 1e6 * (time.perf_counter() - start)
    events = profiler.key_averages()
    lstm = sum(e.cpu_time_total for e in events if e.key == "aten::lstm" or e.key == "MkldnnRnnLayerBackward0")
    others = sorted(
        (e for e in events if "lstm" not in e.key and "rnn" not in e.key.lower()), key=lambda e: -e.self_cpu_time_total
    )
    inside = sum(e.self_cpu_time_total for e in events)
    shares = ", ".join(f"{e.key} {100 * e.self_cpu_time_total / total:.0f} %" for e in others[:most])
    print(f"{name}, profiled: torch.nn.LSTM {100 * lstm / total:.0f} %, Python outside of operators "
          f"{100 * max(0.0, 1 - inside / total):.0f} %; of the others most: {shares}")  # fmt: skip
