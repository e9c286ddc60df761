"""Both directions of a layer as one output, in the ways of Keras's `merge_mode`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastlstm import checks

MODES = ("concat", "sum", "mul", "ave", "none")


def check(reverse: bool, merge: str, bidirectional: bool, num_layers: int) -> None:
    """Raise unless these options of a layer go together."""
    if checks.flag("reverse", reverse) and bidirectional:
        raise ValueError("reverse must be False where bidirectional is True: one of two directions is reverse")
    if checks.choice("merge", merge, MODES) != "concat" and not bidirectional:
        raise ValueError(f"merge must be 'concat' where bidirectional is False, but was {merge!r}")
    if merge == "none" and num_layers > 1:
        raise ValueError("merge must not be 'none' where a layer feeds another: num_layers must be 1")


def size(mode: str, directions: int, output_size: int) -> int:
    """Features of the output."""
    return output_size * (directions if mode == "concat" else 1)


def merge(mode: str, y: np.ndarray) -> Any:
    """From y (..., 2 P) to the output: an array or, for `none`, a pair of arrays."""
    forth, back = np.split(y, 2, axis=-1)
    if mode == "none":
        return forth.copy(), back.copy()
    return forth * back if mode == "mul" else (forth + back) / y.dtype.type(2 if mode == "ave" else 1)


def merge_bwd(mode: str, dy: Any, y: np.ndarray) -> np.ndarray:
    """The gradient of y from that of the output."""
    if mode == "mul":
        forth, back = np.split(y, 2, axis=-1)
        return np.concatenate([dy * back, dy * forth], axis=-1)
    if mode != "none":
        dy = (dy / y.dtype.type(2 if mode == "ave" else 1),) * 2
    return np.concatenate(dy, axis=-1)
