"""Weights in fewer bits: rounded to bfloat16, or to 8-bit integers with a scale to each row, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FORMATS = ("int8", "bfloat16")
LARGEST = 127  # codes are symmetric about 0
NAN = 0x7FC0


class Rounded(NamedTuple):
    """A matrix (rows, columns) in fewer bits."""

    codes: np.ndarray  # int8, or uint16: the bits of bfloat16
    scales: np.ndarray | None  # (rows,) float32, of int8


class Error(NamedTuple):
    """How far some values are from others."""

    max: float
    rms: float  # root of the mean square


def rounded(name: str, w: np.ndarray, to: str) -> Rounded:
    """A float32 matrix, its name for errors, in one of the `FORMATS`."""
    if to == "bfloat16":
        return Rounded(_bfloat16(w), None)
    if not np.isfinite(w).all():
        at = tuple(map(int, np.argwhere(~np.isfinite(w))[0]))
        raise ValueError(f"{name} must be finite to be rounded to int8, but is {w[at]} at {at}")
    scales = abs(w).max(axis=1, initial=0) / np.float32(LARGEST)
    units = np.where(scales > 0, scales, np.float32(1))[:, None]
    # A scale that is denormal is off by so much that a code could go beyond the largest.
    return Rounded(np.clip(np.rint(w / units), -LARGEST, LARGEST).astype(np.int8), scales)


def _bfloat16(w: np.ndarray) -> np.ndarray:
    """The upper halves of float32, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(w).view(np.uint32)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(w), (bits >> 16) | NAN, upper).astype(np.uint16)


def widened(w: Rounded) -> np.ndarray:
    """The float32 matrix that the codes stand for."""
    if w.scales is None:
        return (w.codes.astype(np.uint32) << 16).view(np.float32)
    return w.codes * w.scales[:, None]


def relative_error(found: np.ndarray, wanted: np.ndarray) -> Error:
    """The largest error over the largest value, and the root mean square of errors over that of values."""
    with np.errstate(invalid="ignore"):  # infinite weights, which bfloat16 keeps
        off = np.subtract(found, wanted, dtype=np.float64)
    size = np.asarray(wanted, np.float64)
    if not size.any():
        return Error(0.0, 0.0)
    return Error(
        float(abs(off).max() / abs(size).max()), float(np.sqrt(np.square(off).mean() / np.square(size).mean()))
    )
