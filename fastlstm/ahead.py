"""Compiling ahead: what the first calls would wait for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.layer import LSTM
from fastlstm.plan import DIGIT_UNITS
from fastlstm.runtime.threads import start

BAR = 24  # characters


def warmup(
    dtypes: Sequence[Any] = (np.float32,),
    training: bool = True,
    progress: bool | None = None,
    *,
    ragged: bool = False,
    **options: Any,
) -> None:
    """Compile, or find on disk, every kernel that layers of some kind need, and start the threads.

    Calls compile what they need by themselves; this is for who wants the first of them to be as fast as the others, or
    fills the cache of other processes, such as in the image of a container.

    Parameters
    ----------
    dtypes
        Of the layers: `numpy.float32`, `numpy.float64`, or both.
    training
        Whether to compile for `forward` and `backward` too.
    progress
        Whether to draw a bar on standard error; if None, where that is a terminal.
    ragged
        Whether to compile for calls with `lengths`, with `reset`, or with a `PackedSequence`, too.
    **options
        Of `LSTM`: those that make another cell need other kernels, the sizes, layers and directions do not; and
        `recurrent_dropout` for training.

    Raises
    ------
    TypeError, ValueError
        A dtype, or an option, that `LSTM` does not take.
    """
    found = [checks.floating(dtype) for dtype in ([dtypes] if isinstance(dtypes, str | type | np.dtype) else dtypes)]
    training = checks.flag("training", training)
    ragged = checks.flag("ragged", ragged)
    shown = sys.stderr.isatty() if progress is None else checks.flag("progress", progress)
    steps: list[tuple[str, Callable[[], object]]] = []
    for dtype in found:
        lstm = LSTM(**{"input_size": 2, "hidden_size": DIGIT_UNITS, **options, "dtype": dtype})
        steps += [(f"{dtype} {name}", step) for name, step in _steps(lstm, training, ragged)]
    steps.append(("threads", start))
    began = time.perf_counter()
    for done, (name, step) in enumerate(steps):
        if shown:
            _draw(done, len(steps), name)
        step()
    if shown:
        _draw(len(steps), len(steps), f"{time.perf_counter() - began:.1f} s")
        print(file=sys.stderr)


def _steps(lstm: LSTM, training: bool, ragged: bool) -> list[tuple[str, Callable[[], object]]]:
    """Small calls that together need every kernel: of one step and of several, for training and step by step."""

    def inputs(T: int) -> np.ndarray:
        return np.zeros((1, T, lstm.input_size) if lstm.batch_first else (T, 1, lstm.input_size), lstm.dtype)

    reset = np.ones(inputs(2).shape[:2], bool)

    def infer() -> None:
        held = list(lstm.parameters.values())  # a step has a kernel of its own while somebody holds a parameter
        for T in (1, 40, 1):
            lstm(inputs(T))
            held.clear()

    def train() -> None:
        held = list(lstm.parameters.values())
        for T in (1, 40, 1):
            y, _, tape = lstm.forward(inputs(T))
            lstm.backward(tape, y)
            held.clear()

    def infer_ragged() -> None:
        lstm(inputs(2), reset=reset)

    def train_ragged() -> None:
        y, _, tape = lstm.forward(inputs(2), reset=reset)
        lstm.backward(tape, y)

    found: list[tuple[str, Callable[[], object]]] = [("inference", infer)]
    if training:
        found.append(("training", train))
    if ragged:
        found.append(("inference with lengths", infer_ragged))
    if ragged and training:
        found.append(("training with lengths", train_ragged))
    if not lstm.bidirectional and not lstm.reverse:
        found.append(("stream", lambda: lstm.stream().step(np.zeros((1, lstm.input_size), lstm.dtype))))
    return found


def _draw(done: int, steps: int, what: str) -> None:
    filled = BAR * done // steps
    print(f"\r[{'#' * filled}{'-' * (BAR - filled)}] {done}/{steps} {what}\033[K", end="", file=sys.stderr, flush=True)
