"""The progress of fitting on standard output, in Keras's manner."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from fastlstm import checks

BAR = 20  # characters
PAUSE = 0.05  # seconds between two drawings


def shown(logs: dict[str, float]) -> str:
    """Names and values, as Keras prints them."""
    return "".join(
        f" - {name}: {value:.4f}" if abs(value) > 1e-3 or value == 0 else f" - {name}: {value:.4e}"
        for name, value in logs.items()
    )


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.0f}s"
    return f"{seconds * 1e3:.0f}ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us"


class Progress:
    """One epoch after another; silent where `verbose` says so, or is "auto" and standard output is no terminal."""

    def __init__(self, verbose: str | int, epochs: int, steps: int) -> None:
        terminal = sys.stdout is not None and sys.stdout.isatty()
        if verbose == "auto":
            verbose = 1 if terminal else 0
        if verbose not in (0, 1, 2):
            raise ValueError(f"verbose must be 0, 1, 2 or 'auto', but was {verbose!r}")
        self.verbose, self.epochs, self.steps = int(verbose), epochs, checks.size("steps", steps, least=0)
        self._moving = self.verbose == 1 and terminal
        self._done, self._began, self._drawn = 0, 0.0, 0.0

    def begin(self, epoch: int) -> None:
        """An epoch begins."""
        self._done, self._began, self._drawn = 0, time.perf_counter(), 0.0
        if self.verbose and self.epochs:
            print(f"Epoch {epoch + 1}/{self.epochs}", flush=True)

    def step(self, done: int, logs: Callable[[], dict[str, float]]) -> None:
        """So many steps are done; `logs` is asked only if something is drawn."""
        self._done = done
        if self._moving and (now := time.perf_counter()) - self._drawn > PAUSE:
            self._drawn = now
            print(f"\r{self._line()}{shown(logs())}\033[K", end="", flush=True)

    def end(self, logs: dict[str, float]) -> None:
        """The epoch's results."""
        if self.verbose:
            begin, end = ("\r", "\033[K") if self._moving else ("", "")
            print(f"{begin}{self._line()}{shown(logs)}{end}", flush=True)

    def _line(self) -> str:
        taken = time.perf_counter() - self._began
        each = _duration(taken / max(self._done, 1))
        if self.verbose == 2:
            return f"{self._done}/{self.steps} - {_duration(taken)} - {each}/step"
        filled = BAR * self._done // max(self.steps, 1)
        mark, rest = "━", "─"
        try:
            mark.encode(sys.stdout.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            mark, rest = "=", "."
        left = taken / max(self._done, 1) * (self.steps - self._done)
        return (
            f"{self._done}/{self.steps} {mark * filled}{rest * (BAR - filled)} "
            f"{_duration(taken if self._done == self.steps else left)} {each}/step"
        )
