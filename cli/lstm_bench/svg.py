"""What charts are made of: scales and marks as SVG text. Colours and fonts are the style sheet's, by class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

WIDTH = 380  # of every chart, in its own units: it is shown at about that size on a phone as on a desk

# One shape an engine, so that a chart can be read without its colours; within a circle of radius 1.
SHAPES = {
    "circle": None,
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "diamond": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    "up": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    "down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
    "bar": ((-0.45, -1.3), (0.45, -1.3), (0.45, 1.3), (-0.45, 1.3)),
}


class LogScale(NamedTuple):
    """Values from `low` to `high` on pixels from `start` to `end`, by their logarithms."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; what lies beyond an end is drawn at that end."""
        part = math.log(min(max(value, self.low), self.high) / self.low) / math.log(self.high / self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self, most: int = 7) -> Iterator[float]:
        """Round values within the scale: 1, 2 and 5 times powers of ten, or the powers alone if those are too many."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [digit * 10.0**power for power in powers for digit in digits]
            inside = [value for value in values if self.low <= value * 1.0001 and value <= self.high * 1.0001]
            if len(inside) <= most:
                break
        yield from inside


def log_scale(values: list[float], start: float, end: float, margin: float = 1.15) -> LogScale:
    """The scale that all values fit in, with some air."""
    return LogScale(min(values) / margin, max(values) * margin, start, end)


def number(value: float) -> str:
    """A tick's label."""
    return f"{value:.0f}" if value >= 10 else f"{value:g}"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Words at a point."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def mark(x: float, y: float, shape: str, kind: str, told: str, size: float = 5.5) -> str:
    """A mark of a shape, which tells more when it is pointed at."""
    corners = SHAPES[shape]
    title = f"<title>{escape(told)}</title>"
    if corners is None:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">{title}</circle>'
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return f'<polygon class="{kind}" points="{points}">{title}</polygon>'


def along(foot: tuple[float, float], top: tuple[float, float], words: str, kind: str) -> str:
    """Words that climb along a line, near its foot, just above it."""
    angle = math.degrees(math.atan2(top[1] - foot[1], top[0] - foot[0]))
    turned = f"translate({foot[0]:.1f} {foot[1]:.1f}) rotate({angle:.1f})"
    return f'<text class="{kind}" transform="{turned}" x="10" y="-5">{escape(words)}</text>'


def path(points: list[tuple[float, float]], kind: str, closed: bool = False) -> str:
    """A line through points, or the area that it encloses."""
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{steps}{" Z" if closed else ""}"/>'


def figure(title: str, height: float, marks: list[str], caption: str = "", below: str = "") -> str:
    """A chart with its heading; what it shows is told to screen readers too."""
    label = escape(title, quote=True)
    return (
        f"<figure><h3>{escape(title)}</h3>"
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">{"".join(marks)}</svg>'
        f"{below}<figcaption>{escape(caption)}</figcaption></figure>"
    )
