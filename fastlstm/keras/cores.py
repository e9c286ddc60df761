"""The layers that compute for Keras's, and what they keep of a forward call until its gradient is asked for.

A tape need not go through a framework, which would copy it twice: its *number* does, as any other result of the forward
call, and the gradient finds the tape by it. Where that was dropped meanwhile, or has been used, it is computed again.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

import fastlstm
from fastlstm.passes.packing import digest
from fastlstm.runtime.variant import Variant

MOST_CORES = 64  # that wait to be used again
MOST_BYTES = 1 << 29  # of tapes that wait for their gradient, cores included; the newest is kept whatever it takes
NUMBERS = 1 << 31  # after which they begin anew: JAX takes 32 bits


class Core(NamedTuple):
    """A layer in use by one call."""

    key: tuple  # what its parameters belong to, and their shapes
    mark: bytes  # a digest of their values
    lstm: fastlstm.LSTM


_lock = Lock()
_idle: list[Core] = []  # the one given last stands last
_kept: OrderedDict[int, tuple[Any, Core, int]] = OrderedDict()  # tapes, by number: each with its core and its bytes
_numbers = count()


def take(layer: int, activations: tuple, kernel: Any, recurrent_kernel: Any, bias: Any, batch_first: bool) -> Core:
    """A core for a layer, with these parameters, which are copied only if they changed; for this caller alone."""
    key = (layer, activations, kernel.shape, kernel.dtype, bias is None, batch_first)
    given = [np.ascontiguousarray(part) for part in (kernel, recurrent_kernel, bias) if part is not None]
    mark = digest(Variant(kernel.dtype.name), given)
    with _lock:
        waiting = [core for core in _idle if core.key == key]
        found = next((core for core in waiting if core.mark == mark), waiting[-1] if waiting else None)
        if found is not None:
            _idle.remove(found)
    if found is None:
        I, H = len(kernel), len(recurrent_kernel)
        options = {"dtype": kernel.dtype, "seed": 0, "activations": activations}
        found = Core(key, b"", fastlstm.LSTM(I, H, 1, bias is not None, batch_first, **options))
    if found.mark != mark:
        parameters = found.lstm.parameters
        parameters["weight_ih_l0"][...] = kernel.T
        parameters["weight_hh_l0"][...] = recurrent_kernel.T
        if bias is not None:
            parameters["bias_ih_l0"][...] = bias
            parameters["bias_hh_l0"].fill(0)
    return found._replace(mark=mark)


def give(core: Core) -> None:
    """Let others take a core."""
    with _lock:
        _idle.append(core)
        del _idle[:-MOST_CORES]


def keep(tape: Any, core: Core, size: int) -> int:
    """Keep a tape of so many bytes, and its core; its number."""
    number, dropped = next(_numbers) % NUMBERS, []
    with _lock:
        _kept[number] = tape, core, size
        total = sum(size for *_, size in _kept.values())
        while total > MOST_BYTES and len(_kept) > 1:
            _, (_, old, size) = _kept.popitem(last=False)
            dropped.append(old)
            total -= size
    for old in dropped:
        give(old)
    return number


def claim(number: int) -> tuple[Any, Core] | None:
    """The tape of a number, and its core; None if it is not there any more."""
    with _lock:
        found = _kept.pop(number, None)
    return None if found is None else found[:2]
