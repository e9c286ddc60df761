"""What the user sees meanwhile: a bar on a terminal, a line a case elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import click


class Progress:
    """A bar over estimated seconds, labelled with what goes on."""

    def __init__(self, total_s: float, groups: int) -> None:
        """Nothing is drawn yet."""
        self._groups, self._done, self._start = groups, 0, time.perf_counter()
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        if self._terminal:
            self._bar = click.progressbar(length=max(1, round(total_s)), file=sys.stderr, width=24, show_eta=True,
                                          item_show_func=lambda text: text, label=f"0/{groups}")  # fmt: skip

    def __enter__(self) -> Progress:
        """Draw the bar."""
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Leave the line to what comes next."""
        if self._bar is not None:
            self._bar.__exit__(*error)

    def doing(self, text: str) -> None:
        """Say what goes on."""
        if self._bar is not None:
            self._bar.current_item = text
            self._bar.render_progress()

    def finished(self, text: str, seconds: float) -> None:
        """One more group is done, which was expected to take so many seconds."""
        self._done += 1
        if self._bar is not None:
            self._bar.label = f"{self._done}/{self._groups}"
            self._bar.update(max(1, round(seconds)))
        else:
            elapsed = time.perf_counter() - self._start
            click.echo(f"[{elapsed:6.1f} s] {self._done}/{self._groups} {text}", err=True)
