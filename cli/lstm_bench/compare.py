"""Two results against each other: which cases became faster or slower, judged only by what can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from . import stats, summary
from .engines import ALWAYS
from .results import Document, Measurement
from .table import Cell, Column, Row

COLOURS = {"slower": "red", "broken": "red", "faster": "green", "same": None, "undecided": "yellow"}
BAD = ("slower", "broken")


class Change(NamedTuple):
    """One case, before and after: `speed` above one is faster now; `by` says which figures were judged."""

    case: str
    mode: str
    threads: int
    before_s: float | None
    after_s: float | None
    speed: stats.Interval | None
    by: str
    verdict: str
    detail: str = ""


def _broken(before: Measurement, after: Measurement | None) -> str | None:
    """Why what had a time has none now, if so."""
    if after is None or after.status in ("ok", "missing", "unsupported"):
        return None
    return f"{after.status}: {after.detail}" if before.status == "ok" else None


def agreed(verdicts: Iterable[str]) -> str:
    """What several figures say together: one contradiction or doubt makes it undecided."""
    said = set(verdicts)
    return said.pop() if len(said) == 1 else "undecided"


def _against_numpy(group: Mapping[str, Measurement], label: str) -> np.ndarray | None:
    """How many times as fast as the NumPy rival, round by round."""
    ours, rival = group.get(label), group.get(ALWAYS)
    if ours is None or rival is None or ours.status != "ok" or rival.status != "ok":
        return None
    ratios = stats.round_ratios(ours.rounds, rival.rounds)
    return ratios if ratios.size else None


def _of_peak(m: Measurement) -> np.ndarray | None:
    """The share of the peak measured beside it, round by round."""
    shares = summary.shares_of_peak(m)
    return shares if m.status == "ok" and shares.size else None


def machine_free(
    before: Mapping[str, Measurement], after: Mapping[str, Measurement], labels: tuple[str, str], effect: float
) -> tuple[stats.Interval | None, str, str]:
    """Judge figures that hold from one machine or day to another: the change, what it is by, and the verdict."""
    pairs = {"x NumPy": (_against_numpy(before, labels[0]), _against_numpy(after, labels[1])),
             "% of peak": (_of_peak(before[labels[0]]), _of_peak(after[labels[1]]))}  # fmt: skip
    changes = {name: stats.ratio_of_ratios(now, then) for name, (then, now) in pairs.items()
               if now is not None and then is not None}  # fmt: skip
    if not changes:
        return None, "", "undecided"
    verdict = agreed(stats.verdict(change, effect) for change in changes.values())
    return next(iter(changes.values())), " and ".join(changes), verdict


def documents(before: Document, after: Document, effect: float = stats.EFFECT) -> list[Change]:
    """Every case that both hold, by machine-free figures: two runs never met the same machine in the same mood."""
    old, new = before.groups(), after.groups()
    changes = []
    for key in (key for key in old if key in new):
        name, mode, _, threads = key
        then, now = old[key].get(before.subject), new[key].get(after.subject)
        if then is None or now is None:
            continue
        if reason := _broken(then, now):
            changes.append(Change(name, mode, threads, then.median_s, None, None, "", "broken", reason))
        elif then.status == now.status == "ok":
            speed, by, verdict = machine_free(old[key], new[key], (before.subject, after.subject), effect)
            changes.append(Change(name, mode, threads, then.median_s, now.median_s, speed, by, verdict))
    return changes


def sides(document: Document, other: str, effect: float = stats.EFFECT) -> list[Change]:
    """The subject against another engine of the same run, round by round: the sharpest comparison there is."""
    changes = []
    for (name, mode, _, threads), group in document.groups().items():
        now, then = group[document.subject], group[other]
        if reason := _broken(then, now):
            changes.append(Change(name, mode, threads, then.median_s, None, None, "", "broken", reason))
        elif then.status == now.status == "ok":
            speed = stats.ratio(now.rounds, then.rounds)
            verdict = stats.verdict(speed, effect)
            changes.append(Change(name, mode, threads, then.median_s, now.median_s, speed, "time", verdict))
    return changes


def _change_text(change: Change) -> str:
    """The speed now over the speed before, with its interval."""
    if change.speed is None:
        return change.detail
    return f"{change.speed.estimate:.3f} [{change.speed.low:.3f}, {change.speed.high:.3f}]"


def table(changes: Sequence[Change]) -> tuple[list[Column], list[Row]]:
    """The columns and rows of a comparison."""
    several = len({change.threads for change in changes}) > 1
    columns = [Column("case", left=True), Column("mode", left=True), *([Column("thr")] if several else [])]
    columns += [Column("before\nms"), Column("now\nms"), Column("speed now / before\n[95 % interval]"),
                Column("judged by", left=True), Column("verdict", left=True)]  # fmt: skip
    rows: list[Row] = []
    for c in changes:
        times = ["" if s is None else summary.milliseconds(s) for s in (c.before_s, c.after_s)]
        rows.append([c.case, summary.MODE_NAMES[c.mode], *([str(c.threads)] if several else []), *times,
                     _change_text(c), c.by, Cell(c.verdict, COLOURS[c.verdict])])  # fmt: skip
    return columns, rows


def tally(changes: Sequence[Change]) -> str:
    """How many cases got which verdict."""
    counts = {verdict: sum(c.verdict == verdict for c in changes) for verdict in COLOURS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "nothing to compare"


def exit_code(changes: Sequence[Change]) -> int:
    """1 if something is slower or broken, 0 else."""
    return int(any(change.verdict in BAD for change in changes))
