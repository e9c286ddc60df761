"""The charts of the report, each from a result alone: an empty text where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from . import roofline, summary, svg
from .engines import ALWAYS, SUBJECT
from .results import Document, Limits, Measurement

_SHAPES = {SUBJECT: "circle", ALWAYS: "bar", "torch": "square", "onnxruntime": "diamond", "openvino": "up",
           "jax": "down", "keras": "circle"}  # fmt: skip
_LEFT, _RIGHT = 122.0, 370.0
_LETTERS = 16  # of a name, left of a row
_ROW = 24.0
_BINS = 48
_LEAST_SPEEDUP = 0.4  # what is slower than that is drawn at the end of the scale


def shape(label: str) -> str:
    """The mark of an engine."""
    return _SHAPES.get(label, "square")


def kind(label: str) -> str:
    """The colour class of an engine; one that the style sheet does not know gets the text's colour."""
    return f"engine-{label}" if label in _SHAPES else "engine-other"


def legend(labels: list[str]) -> str:
    """Marks and names of engines."""

    def item(label: str) -> str:
        drawn = svg.mark(0, 0, shape(label), kind(label), label)
        size = 'viewBox="-8 -8 16 16" width="14" height="14"'
        return f'<li><svg {size} aria-hidden="true">{drawn}</svg>{escape(label)}</li>'

    items = "".join(map(item, labels))
    return f'<ul class="legend">{items}</ul>'


def _row_name(name: str, y: float) -> str:
    """The name of a row; what has no room is left out of its middle."""
    half = _LETTERS // 2
    shown = name if len(name) <= _LETTERS else f"{name[:half]}…{name[1 - half :]}"
    return svg.text(_LEFT - 10, y, shown, "label", "end")


def plural(threads: int) -> str:
    """A thread count in words."""
    return f"{threads} thread{'s' * (threads > 1)}"


def _axis(scale: svg.LogScale, top: float, bottom: float, unit: str, strong: float | None = None) -> list[str]:
    """Vertical grid lines with their values below."""
    marks = []
    for value in scale.ticks():
        marks.append(svg.line(scale(value), top, scale(value), bottom, "strong" if value == strong else "grid"))
        marks.append(svg.text(scale(value), bottom + 15, svg.number(value) + unit, "tick", "middle"))
    return marks


def speed(document: Document, mode: str, threads: int) -> str:
    """How many times as fast as each rival, a row a case."""
    rows = {name: summary.speeds(group, document.subject)
            for (name, m, _, t), group in document.groups().items() if m == mode and t == threads}  # fmt: skip
    rows = {name: found for name, found in rows.items() if found}
    if not rows:
        return ""
    values = [1.0, *(speed.ratio.estimate for found in rows.values() for speed in found)]
    scale = svg.log_scale(values, _LEFT, _RIGHT, 1.25)
    bottom = 8 + _ROW * len(rows)
    marks = [svg.text(scale(1), bottom + 31, "equal", "tick", "middle"), *_axis(scale, 4, bottom, "x", strong=1)]
    for k, (name, found) in enumerate(rows.items()):
        y = 4 + _ROW * (k + 0.5)
        marks.append(_row_name(name, y + 4))
        ends = [scale(speed.ratio.estimate) for speed in found]
        marks.append(svg.line(min(ends), y, max(ends), y, "span"))
        for rival, (estimate, low, high, rounds) in reversed(found):
            marks.append(svg.line(scale(low), y, scale(high), y, f"whisker {kind(rival)}"))
            within = f"95 % interval {low:.2f} to {high:.2f}, {rounds} rounds"
            told = f"{name}: {estimate:.2f} times as fast as {rival}, {within}"
            marks.append(svg.mark(scale(estimate), y, shape(rival), kind(rival), told))
    title = f"{mode.capitalize()}, {plural(threads)}"
    return svg.figure(title, bottom + 38, marks, "Right of the line we are faster; bars are 95 % intervals.")


def _roofs(limits: Limits, x: svg.LogScale, y: svg.LogScale) -> list[str]:
    """The peak, and the slopes of the fastest cache and of the slowest memory that were measured."""
    peak, sizes = limits.peak_gflops, sorted(limits.bandwidth_gbs)
    marks = [svg.text(_RIGHT, 12, f"peak {peak:.0f} GFLOP/s", "tick", "end")]
    for size in dict.fromkeys((sizes[0], sizes[-1])):
        gbs = limits.bandwidth_gbs[size]
        left, ridge = max(x.low, y.low / gbs), min(max(peak / gbs, x.low), x.high)
        foot, top = (x(left), y(left * gbs)), (x(ridge), y(ridge * gbs))
        marks.append(svg.path([foot, top], "roof"))
        if top[0] - foot[0] > 60:
            name = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
            marks.append(svg.along(foot, top, f"{name}: {gbs:.0f} GB/s", "tick"))
    fastest = peak / limits.bandwidth_gbs[sizes[0]]
    marks.append(svg.line(x(max(fastest, x.low)), y(peak), x(x.high), y(peak), "roof"))
    return marks


def _placed(spots: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each spot's label goes: the first place around it that no spot or earlier label takes."""
    around = [(11.0, 4.0), (-11.0, 4.0), (0.0, -8.0), (0.0, 15.0), (12.0, -7.0), (-12.0, -7.0), (12.0, 14.0),
              (-12.0, 14.0), (0.0, -19.0), (0.0, 26.0), (24.0, 4.0), (-24.0, 4.0)]  # fmt: skip
    taken: list[tuple[float, float]] = []
    for x, y in spots:
        free = ((x + dx, y + dy) for dx, dy in around
                if all(abs(x + dx - a) > 13 or abs(y + dy - b) > 11 for a, b in taken)
                and all(abs(x + dx - a) > 8 or abs(y + dy - 4 - b) > 8 for a, b in spots))  # fmt: skip
        taken.append(next(free, (x + around[0][0], y + around[0][1])))
    return taken


def roofline_chart(document: Document, mode: str, threads: int) -> str:
    """Every case against the limits of the machine, numbered, with the key below."""
    limits = document.limits_at(threads)
    ours = [group[document.subject] for (_, m, _, t), group in document.groups().items()
            if m == mode and t == threads and group[document.subject].status == "ok"]  # fmt: skip
    if limits is None or not ours:
        return ""
    spots = [(roofline.intensity(m.case, mode, m.dtype), summary.gflops(m)) for m in ours]
    low = min(rate for _, rate in spots)
    x = svg.log_scale(
        [at for at, _ in spots] + [0.4, 2 * limits.peak_gflops / min(limits.bandwidth_gbs.values())], 46, _RIGHT, 1.25
    )
    y = svg.log_scale([low / 1.5, limits.peak_gflops * 1.3], 268, 10)
    marks = [
        svg.text(4, 12, "GFLOP/s", "tick"),
        svg.text(_RIGHT, 316, "FLOP a byte of recurrent weights", "tick", "end"),
    ]
    for value in y.ticks(5):
        marks.append(svg.line(x.start, y(value), x.end, y(value), "grid"))
        marks.append(svg.text(x.start - 6, y(value) + 4, svg.number(value), "tick", "end"))
    marks += _axis(x, 26, 284, "") + _roofs(limits, x, y)
    points = [(x(at), y(rate)) for at, rate in spots]
    for k, (m, point, place) in enumerate(zip(ours, points, _placed(points), strict=True)):
        told = f"{m.case.name}: {summary.gflops(m):.1f} GFLOP/s, {_share(m, limits)} of its limit"
        marks.append(svg.mark(*point, "circle", kind(SUBJECT), told, 4))
        marks.append(svg.text(*place, str(k + 1), "label", "middle"))
    key = "".join(f"<li>{escape(m.case.name)} <b>{_share(m, limits)}</b></li>" for m in ours)
    return svg.figure(f"{mode.capitalize()}, {plural(threads)}", 322, marks,
                      "The share is of each case's own limit: the peak, or its weights read from where they fit.",
                      f'<ol class="key">{key}</ol>')  # fmt: skip


def _share(m: Measurement, limits: Limits) -> str:
    """How much of its own limit a case reached, as text."""
    assert m.median_s is not None
    bound = roofline.bound(m.case, m.mode, m.dtype, m.threads, limits.peak_gflops, limits.bandwidth_gbs)
    of_peak = summary.share_of_peak(m)
    by_peak = bound.compute_s >= bound.memory_s and of_peak is not None
    return f"{of_peak if by_peak else bound.limit_s / m.median_s:.0%}"


def scaling(document: Document, mode: str) -> str:
    """The speed at each thread count over that at the smallest, a row a case."""
    times: dict[str, dict[int, float]] = {}
    for (name, m, _, threads), group in document.groups().items():
        ours = group[document.subject]
        if m == mode and ours.status == "ok" and ours.median_s is not None:
            times.setdefault(name, {})[threads] = ours.median_s
    counts = sorted({threads for row in times.values() for threads in row})
    times = {name: row for name, row in times.items() if counts and counts[0] in row and len(row) > 1}
    if not times:
        return ""
    speedups = {name: {t: row[counts[0]] / s for t, s in row.items()} for name, row in times.items()}
    ideal = [t / counts[0] for t in counts]
    values = [v for row in speedups.values() for v in row.values()] + ideal
    scale = svg.log_scale([max(v, _LEAST_SPEEDUP) for v in values], _LEFT, _RIGHT - 10)
    bottom = 22 + _ROW * len(times)
    marks = [svg.text(_LEFT - 10, 12, "threads", "tick", "end")]
    for threads, value in zip(counts, ideal, strict=True):
        marks.append(svg.line(scale(value), 18, scale(value), bottom, "strong"))
        marks.append(svg.text(scale(value), 12, str(threads), "tick", "middle"))
    marks += [svg.text(scale(v), bottom + 15, svg.number(v) + "x", "tick", "middle") for v in scale.ticks()]
    for k, (name, row) in enumerate(speedups.items()):
        y = 18 + _ROW * (k + 0.5)
        marks.append(_row_name(name, y + 4))
        marks.append(svg.line(scale(min(row.values())), y, scale(max(row.values())), y, "span"))
        for threads, value in row.items():
            told = f"{name}: {value:.2f} times as fast with {plural(threads)} as with {counts[0]}"
            marks.append(svg.mark(scale(value), y, "circle", kind(SUBJECT), told, 4 if threads == counts[0] else 5.5))
    return svg.figure(
        mode.capitalize(), bottom + 22, marks, "A line is where that many threads would be used to the full."
    )


def _short(value: float) -> str:
    return f"{value / 1000:.0f}k" if value >= 1e4 else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def latency(name: str, threads: int, group: Mapping[str, Measurement]) -> str:
    """How long single steps took, a row an engine, with the median and the slowest hundredth."""
    rows = {label: np.asarray(m.latency) * 1e6 for label, m in group.items() if m.latency}
    if not rows:
        return ""
    ends = [float(np.quantile(values, q)) for values in rows.values() for q in (0.001, 0.995)]
    scale = svg.log_scale(ends, _LEFT, _RIGHT - 84, 1.1)
    height = 40.0
    bottom = 18 + height * len(rows)
    marks = [*_axis(scale, 14, bottom, ""), svg.text(_RIGHT, bottom + 15, "us", "tick", "end"),
             svg.text(_RIGHT - 40, 10, "median", "tick", "end")]  # fmt: skip
    marks.append(svg.text(_RIGHT, 10, "99 %", "tick", "end"))
    edges = np.geomspace(scale.low, scale.high, _BINS + 1)
    for k, (label, values) in enumerate(rows.items()):
        base = 18 + height * (k + 1) - 4
        counts = np.histogram(values, edges)[0] / max(1, len(values))
        tops = base - (height - 10) * counts / max(counts.max(), 1e-9)
        middle = np.sqrt(edges[:-1] * edges[1:])
        outline = [
            (scale(edges[0]), base),
            *((scale(a), b) for a, b in zip(middle, tops, strict=True)),
            (scale(edges[-1]), base),
        ]
        marks.append(svg.path(outline, f"area {kind(label)}", closed=True))
        half, slow = np.quantile(values, [0.5, 0.99])
        marks.append(_row_name(label, base - 6))
        marks.append(svg.text(_RIGHT - 40, base - 6, _short(half), "label", "end"))
        marks.append(svg.text(_RIGHT, base - 6, _short(slow), "label", "end"))
    return svg.figure(
        f"{name}, {plural(threads)}", bottom + 22, marks, "Each step timed by itself, called from Python."
    )


def starts(document: Document) -> str:
    """Seconds from starting a process to its first result, cold and warm."""
    if not document.starts:
        return ""
    scale = svg.log_scale([s for row in document.starts.values() for s in row.values()], _LEFT, _RIGHT, 1.4)
    bottom = 8 + _ROW * len(document.starts)
    marks = _axis(scale, 4, bottom, " s")
    for k, (label, row) in enumerate(document.starts.items()):
        y = 4 + _ROW * (k + 0.5)
        marks.append(_row_name(label, y + 4))
        marks.append(svg.line(scale(row["warm_s"]), y, scale(row["cold_s"]), y, "span"))
        for name, size in (("cold_s", 5.5), ("warm_s", 3.5)):
            told = f"{label}: {row[name]:.2f} s {'with nothing cached' if name == 'cold_s' else 'with kernels cached'}"
            marks.append(svg.mark(scale(row[name]), y, shape(label), kind(label), told, size))
    return svg.figure(
        "First result of a new process", bottom + 22, marks, "Large: nothing cached. Small: kernels cached."
    )
