"""Where a figure is weak, said beside it."""

from __future__ import annotations

import numpy as np

from . import stats
from .results import Document, Measurement

FEW_ROUNDS = 3
WIDE_SPREAD = 0.10
OTHER_LOAD = 0.2
PEAK_CHANGE = 0.10
LONG_SETTLE_S = 1.0
_GAP_STATUS = ("wrong", "failed", "crashed", "hung")


def gaps(document: Document) -> list[str]:
    """Every engine or time that is not there, with the reason; what an engine cannot do by its nature is left out."""
    lines = [
        f"{label}: {info.status}, {info.detail}" for label, info in document.engines.items() if info.status != "ok"
    ]
    absent = {label for label, info in document.engines.items() if info.status != "ok"}
    for m in document.measurements:
        if m.status in _GAP_STATUS and m.engine not in absent:
            lines.append(f"{m.case.name} {m.mode}, {m.engine}: {m.status}, {m.detail}")
    return lines


def _weaknesses(m: Measurement) -> list[str]:
    found = []
    if len(m.rounds) <= FEW_ROUNDS:
        found.append(f"only {len(m.rounds)} rounds")
    if (spread := stats.relative_spread(m.rounds)) > WIDE_SPREAD:
        found.append(f"spread {spread:.0%}")
    if m.settle_s >= LONG_SETTLE_S:
        found.append("its threads kept spinning after the turn")
    return found


def _machine(document: Document) -> list[str]:
    lines = []
    loads = [m.other_load for m in document.measurements if m.other_load is not None]
    if loads and max(loads) > OTHER_LOAD:
        busy = f"{np.median(loads):.1f} cores busy (at most {max(loads):.1f})"
        lines.append(f"other processes kept {busy}: times may be too long, ratios hold better")
    for threads in sorted({m.threads for m in document.measurements}):
        peaks = [
            np.median([*m.peak_gflops.values()])
            for m in document.measurements
            if m.peak_gflops and m.threads == threads
        ]
        if peaks and max(peaks) > (1 + PEAK_CHANGE) * min(peaks):
            peak = f"peak at {threads} thread{'s' * (threads > 1)}"
            went = f"from {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s"
            lines.append(f"the machine's speed changed during the run: its {peak} went {went}")
    cores = document.machine.get("cores")
    most = max((m.threads for m in document.measurements), default=0)
    if isinstance(cores, int) and most > cores:
        lines.append(f"{most} threads on {cores} cores")
    return lines


def warnings(document: Document, most: int = 6) -> list[str]:
    """What makes the figures weak: the machine first, then single times, the worst ones."""
    single = []
    for m in document.measurements:
        if m.status == "ok" and m.rounds and (found := _weaknesses(m)):
            single.append((stats.relative_spread(m.rounds), f"{m.case.name} {m.mode}, {m.engine}: {', '.join(found)}"))
    single.sort(reverse=True)
    lines = [text for _, text in single[:most]]
    if len(single) > most:
        lines.append(f"and {len(single) - most} more weak figures (in the JSON)")
    return _machine(document) + lines
