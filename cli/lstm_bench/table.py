"""Tables of text: for a terminal, aligned and at most so wide, and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click


class Column(NamedTuple):
    """A heading, broken into lines at newlines, whether the cells stand to the left, and whether it can be spared."""

    heading: str
    left: bool = False
    spare: bool = False


class Cell(NamedTuple):
    """A text and the colour that it has on a terminal."""

    text: str
    colour: str | None = None


Row = Sequence[Cell | str]


def _cell(value: Cell | str) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def plain(columns: Sequence[Column], rows: Sequence[Row], gap: int = 2) -> str:
    """The table as aligned lines; colours are ANSI codes, which click leaves out where there is no terminal."""
    headings = [column.heading.split("\n") for column in columns]
    depth = max(map(len, headings))
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([*map(len, heading), *(len(row[k].text) for row in cells)]) for k, heading in enumerate(headings)]

    def placed(text: str, k: int) -> str:
        return text.ljust(widths[k]) if columns[k].left else text.rjust(widths[k])

    lines = []
    for level in range(depth):
        padded = [
            heading[level - depth + len(heading)] if level >= depth - len(heading) else "" for heading in headings
        ]
        lines.append((" " * gap).join(placed(text, k) for k, text in enumerate(padded)).rstrip())
    lines.append("-" * (sum(widths) + gap * (len(widths) - 1)))
    for row in cells:
        texts = []
        for k, cell in enumerate(row):
            text = placed(cell.text, k)
            texts.append(click.style(text, fg=cell.colour) if cell.colour else text)
        lines.append((" " * gap).join(texts).rstrip())
    return "\n".join(lines)


def fitted(columns: Sequence[Column], rows: Sequence[Row], width: int = 100) -> str:
    """The table within a width: set closer if it has to be, then without the columns that can be spared, last first."""
    kept = list(range(len(columns)))
    spare = [k for k in kept if columns[k].spare]
    while True:
        for gap in (2, 1):
            text = plain([columns[k] for k in kept], [[row[k] for k in kept] for row in rows], gap)
            if not spare or max(len(click.unstyle(line)) for line in text.splitlines()) <= width:
                return text
        kept.remove(spare.pop())


def markdown(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """The table as GitHub renders it."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    lines = [line([column.heading.replace("-\n", "").replace("\n", " ") for column in columns])]
    lines.append("|" + "|".join("---" if column.left else "---:" for column in columns) + "|")
    lines += [line([_cell(value).text for value in row]) for row in rows]
    return "\n".join(lines)
