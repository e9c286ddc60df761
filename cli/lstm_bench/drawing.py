"""The report's main charts as a PNG, drawn by matplotlib: speed against each rival, and share of the peak."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import summary
from .results import Document, Measurement

_MARKS = {"numpy": ("|", "#6f7780"), "torch": ("s", "#d0402b"), "onnxruntime": ("D", "#8a4fc4"),
          "openvino": ("^", "#b07a00"), "jax": ("v", "#12875a"), "keras": ("o", "#c22f7a")}  # fmt: skip
_OURS = "#0b6bcb"
_OTHER = ("x", "#1b2430")

Rows = dict[tuple[str, int], dict[str, dict[str, Measurement]]]


def _panels(document: Document) -> Rows:
    """The groups by mode and thread count, then by case; those without a time of ours are left out."""
    panels: Rows = {}
    for (name, mode, _, threads), group in document.groups().items():
        if group[document.subject].status == "ok":
            panels.setdefault((mode, threads), {})[name] = group
    return panels


def _speeds(axes: Axes, rows: dict[str, dict[str, Measurement]], subject: str) -> None:
    """A mark a rival with its interval, on a logarithmic scale."""
    for k, group in enumerate(rows.values()):
        for rival, ratio in summary.speeds(group, subject):
            mark, colour = _MARKS.get(rival, _OTHER)
            axes.plot([ratio.low, ratio.high], [k, k], color=colour, alpha=0.5)
            axes.plot(ratio.estimate, k, mark, color=colour, markersize=8, linestyle="none")
    axes.axvline(1, color="#8b96a5", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}x" if str(value)[:1] in "25" else "")


def _shares(axes: Axes, rows: dict[str, dict[str, Measurement]], subject: str) -> None:
    """A bar a case."""
    shares = [summary.share_of_peak(group[subject]) or 0 for group in rows.values()]
    bars = axes.barh(range(len(rows)), [100 * share for share in shares], color=_OURS, height=0.6)
    axes.bar_label(bars, [f"{100 * share:.0f}" if share else "unknown" for share in shares], padding=3, fontsize=8)
    axes.set_xlim(0, 108)


def _legend(rivals: list[str]) -> list[Line2D]:
    """A mark for each rival."""
    marks = ((rival, *_MARKS.get(rival, _OTHER)) for rival in rivals)
    return [Line2D([], [], color=colour, marker=mark, markersize=8, linestyle="none", label=rival)
            for rival, mark, colour in marks]  # fmt: skip


def save(document: Document, path: str) -> None:
    """Draw a row of two charts for each mode and thread count."""
    panels = _panels(document)
    heights = [1.3 + 0.28 * len(rows) for rows in panels.values()] or [1.0]
    figure = Figure(figsize=(12, sum(heights) + 0.6), layout="constrained")
    facts = f"{document.machine['cpu']}, {document.settings['dtype']}, {document.created[:10]}"
    figure.suptitle(f"{document.subject} on {facts}")
    means = {
        (mean.mode, mean.threads): f" (the fastest: {mean.mean:.2f} on average)" for mean in summary.means(document)
    }
    grid = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
    for (left, right), ((mode, threads), rows) in zip(grid, panels.items(), strict=False):
        _speeds(left, rows, document.subject)
        _shares(right, rows, document.subject)
        at = f"{mode}, {threads} thread{'s' * (threads > 1)}"
        left.set_title(f"{at}: times as fast as each rival{means.get((mode, threads), '')}", fontsize=10)
        right.set_title(f"{at}: % of the multiply-add peak", fontsize=10)
        for axes in (left, right):
            axes.set_yticks(range(len(rows)), list(rows), fontsize=9)
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="x", color="#d9dee5", linewidth=0.6)
            axes.set_axisbelow(True)
    figure.legend(handles=_legend(summary.rivals(document)), loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=110)
