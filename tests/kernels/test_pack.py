"""Packed weights: where each element goes, and zeros beyond the last column."""

from __future__ import annotations

import numpy as np
import pytest

from fastlstm.cell import PLAIN
from fastlstm.passes import packing
from fastlstm.runtime.variant import Variant
from fastlstm.simd.isa import target
from fastlstm.simd.tile import PANEL


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("H", [1, 7, 8, 9, 16, 17, 33])
@pytest.mark.parametrize("I", [1, 5, 20])
def test_forward(I: int, H: int, dtype: str) -> None:
    rng, lanes = np.random.default_rng(0), target().lanes(dtype)
    w_ih, w_hh = (rng.standard_normal((4 * H, n)).astype(dtype) for n in (I, H))
    b_ih, b_hh = rng.standard_normal((2, 4 * H)).astype(dtype)
    p = {"weight_ih": w_ih, "weight_hh": w_hh, "bias_ih": b_ih, "bias_hh": b_hh}
    packed = packing.pack_forward(PLAIN, Variant(dtype), p)
    panels = -(-H // lanes)
    padded = np.zeros((4, panels * lanes, I + H), dtype)
    padded[:, :H] = np.concatenate([w_ih, w_hh], axis=1).reshape(4, H, I + H)
    expected = padded.reshape(4, panels, lanes, I + H).transpose(1, 3, 0, 2)  # [panel][k][gate][lane]
    np.testing.assert_array_equal(packed.weights.reshape(expected.shape), expected)
    bias = np.zeros((4, panels * lanes), dtype)
    bias[:, :H] = (b_ih + b_hh).reshape(4, H)
    np.testing.assert_array_equal(
        packed.bias.reshape(panels, 4, lanes), bias.reshape(4, panels, lanes).transpose(1, 0, 2)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("N", [1, 15, 16, 17, 63, 64, 65, 150])
def test_backward(N: int, dtype: str) -> None:
    rng, lanes, K = np.random.default_rng(0), target().lanes(dtype), 12
    w_ih, w_hh = rng.standard_normal((K, N)).astype(dtype), rng.standard_normal((K, K // 4)).astype(dtype)
    packed = packing.pack_backward(PLAIN, Variant(dtype), {"weight_ih": w_ih, "weight_hh": w_hh}).w_ih
    panel, at = PANEL * lanes, 0
    for first in range(0, N, panel):
        columns = w_ih[:, first : first + panel]
        width = -(-columns.shape[1] // lanes) * lanes
        expected = np.zeros((K, width), dtype)
        expected[:, : columns.shape[1]] = columns
        np.testing.assert_array_equal(packed[at : at + K * width].reshape(K, width), expected)
        at += K * width
    assert at == packed.size
