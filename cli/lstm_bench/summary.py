"""A result as a table: a row a case and mode, our figures first, then each rival's time and the ratio to the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from . import stats
from .results import Document, Measurement
from .table import Cell, Column, Row

_HEADINGS = {"onnxruntime": "onnx\nruntime", "openvino": "open\nvino"}
_GAPS = {
    "missing": "missing",
    "unsupported": "-",
    "wrong": "wrong",
    "failed": "failed",
    "crashed": "crashed",
    "hung": "hung",
}
_WEAK = 0.05  # a ratio whose interval reaches further than this either way is marked
MODE_NAMES = {"inference": "infer", "training": "train", "stream": "stream"}


class Speed(NamedTuple):
    """Our speed against a rival's."""

    rival: str
    ratio: stats.Interval


class Mean(NamedTuple):
    """The geometric mean of the ratios to the fastest rival in one mode at one thread count, and the least of them."""

    mode: str
    threads: int
    mean: float
    cases: int
    least: float
    case: str
    rival: str


def milliseconds(seconds: float) -> str:
    """A time in ms with about four digits, at most seven characters wide up to 1000 s."""
    ms = seconds * 1e3
    decimals = next((decimals for bound, decimals in ((0.1, 4), (10, 3), (100, 2), (1e4, 1)) if ms < bound), 0)
    return f"{ms:.{decimals}f}"


def gflops(measurement: Measurement) -> float:
    """GFLOP/s of the median run."""
    assert measurement.median_s is not None
    return measurement.case.flops(measurement.mode) / measurement.median_s / 1e9


def shares_of_peak(measurement: Measurement) -> np.ndarray:
    """The part of the multiply-add peak of the same round that each round's median run reached; empty if unknown."""
    flop = measurement.case.flops(measurement.mode) / 1e9
    common = set(measurement.rounds) & set(measurement.peak_gflops)
    return np.array([flop / np.median(measurement.rounds[k]) / measurement.peak_gflops[k] for k in sorted(common)])


def share_of_peak(measurement: Measurement) -> float | None:
    """The median of these parts."""
    shares = shares_of_peak(measurement)
    return float(np.median(shares)) if shares.size else None


def speeds(group: Mapping[str, Measurement], subject: str) -> list[Speed]:
    """Our speed against each rival that has a time, the fastest rival first."""
    ours = group.get(subject)
    if ours is None or ours.status != "ok":
        return []
    found = [Speed(label, stats.ratio(ours.rounds, other.rounds)) for label, other in group.items()
             if label != subject and other.status == "ok" and set(other.rounds) & set(ours.rounds)]  # fmt: skip
    return sorted(found, key=lambda speed: speed.ratio.estimate)


def rivals(document: Document) -> list[str]:
    """The engines other than the subject, in the order of the run."""
    return [label for label in document.engines if label != document.subject]


def _own_cells(measurement: Measurement | None) -> list[str]:
    if measurement is None or measurement.status != "ok" or measurement.median_s is None:
        return [_GAPS[measurement.status] if measurement else "", "", "", ""]
    share = share_of_peak(measurement)
    rate = gflops(measurement)
    return [milliseconds(measurement.median_s), f"{rate:.1f}" if rate >= 1 else f"{rate:.3f}",
            "" if share is None else f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.1f}",
            f"{1e6 * measurement.median_s / measurement.case.steps(measurement.mode):.4g}"]  # fmt: skip


def _rival_cell(measurement: Measurement | None) -> str:
    if measurement is None:
        return ""
    if measurement.status != "ok" or measurement.median_s is None:
        return _GAPS[measurement.status]
    return milliseconds(measurement.median_s)


def _ratio_cell(found: list[Speed]) -> Cell:
    if not found:
        return Cell("")
    estimate, low, high, _ = found[0].ratio
    weak = "~" if low < estimate * (1 - _WEAK) or high > estimate * (1 + _WEAK) else ""
    return Cell(f"{weak}{estimate:.2f}", "green" if low > 1 else "red" if high < 1 else None)


def table(document: Document) -> tuple[list[Column], list[Row]]:
    """The columns and rows of the main table."""
    others = rivals(document)
    several = len({m.threads for m in document.measurements}) > 1
    columns = [Column("case", left=True), Column("mode", left=True)]
    columns += [Column("thr")] if several else []
    columns += [
        Column("median\nms"),
        Column("GFLOP/s", spare=True),
        Column("% of\npeak"),
        Column("us a\nstep", spare=True),
    ]
    columns += [Column(_HEADINGS.get(label, label)) for label in others]
    columns += [Column("x the\nbest")] if others else []
    rows: list[Row] = []
    for (name, mode, _, threads), group in document.groups().items():
        cells: list[Cell | str] = [name, MODE_NAMES[mode], *([str(threads)] if several else [])]
        cells += _own_cells(group.get(document.subject))
        cells += [_rival_cell(group.get(label)) for label in others]
        rows.append([*cells, *([_ratio_cell(speeds(group, document.subject))] if others else [])])
    return columns, rows


def means(document: Document) -> list[Mean]:
    """What each mode and thread count comes to, over all cases with a rival's time."""
    found: dict[tuple[str, int], list[tuple[float, str, str]]] = {}
    for (name, mode, _, threads), group in document.groups().items():
        if speed := speeds(group, document.subject)[:1]:
            found.setdefault((mode, threads), []).append((speed[0].ratio.estimate, name, speed[0].rival))
    return [
        Mean(mode, threads, stats.geometric_mean([ratio for ratio, _, _ in ratios]), len(ratios), *min(ratios))
        for (mode, threads), ratios in found.items()
    ]
