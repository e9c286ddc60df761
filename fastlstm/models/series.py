"""Series cut into windows: what a forecasting model sees, and what came after it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastlstm import checks


def windows(series: Any, length: int, horizon: int = 1, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of a series, and what follows each: samples for a model that forecasts.

    Parameters
    ----------
    series
        Numbers (N,), or (N, n) of n features.
    length
        Steps that are seen.
    horizon
        Steps that follow them.
    stride
        Steps from one window to the next.

    Returns
    -------
    x
        (samples, length, n), n being 1 for a series without features: the input of an `LSTM`.
    y
        (samples, horizon), or (samples, horizon, n) of a series with features. Both are read-only views of the series.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type or range, or a series of less than length + horizon steps.

    Examples
    --------
    >>> x, y = windows(series, 104, horizon=52)
    >>> model = Sequential([LSTM(48), Dense(52)])
    """
    array = np.asarray(series)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"series must be numbers, but is of the dtype {array.dtype}")
    if array.ndim not in (1, 2):
        raise ValueError(f"series must have the shape (N,) or (N, n), but has {array.shape}")
    seen, whole = checks.size("length", length), length + checks.size("horizon", horizon)
    if len(array) < whole:
        raise ValueError(f"series must have at least length + horizon = {whole} steps, but has {len(array)}")
    cut = np.lib.stride_tricks.sliding_window_view(array, whole, axis=0)[:: checks.size("stride", stride)]
    cut = cut[..., None] if array.ndim == 1 else cut.swapaxes(1, 2)
    return cut[:, :seen], cut[:, seen:, 0] if array.ndim == 1 else cut[:, seen:]
