"""`LSTMCell` as a PyTorch module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastlstm.torch import steps
from fastlstm.torch.modules import State, autocast, require
from fastlstm.torch.operator import layer, step
from fastlstm.torch.steps import held

__all__ = ["LSTMCell"]

NAMES = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


class LSTMCell(torch.nn.RNNCellBase):
    """`torch.nn.LSTMCell`, computed by fastlstm: one step of one layer.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype
        As for `torch.nn.LSTMCell`.

    Raises
    ------
    NotImplementedError
        As for `LSTM`.
    ValueError, RuntimeError
        As `torch.nn.LSTMCell` raises them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """Run one step: (h, c), each (B, H), from x (B, I) and (h, c), zeros if None; without B for a single row."""
        weights = held(self, NAMES if self.bias else NAMES[:2])
        state = hx if steps.eager(input, hx) else None
        if state is not None and (found := step(input, *state, weights)):
            return found
        if input.dim() not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if hx is not None and len(hx) != 2:
            raise RuntimeError(f"LSTMCell: hx must be a pair (h, c), but has {len(hx)} items")
        for i, given in enumerate(() if hx is None else hx):
            if given.dim() not in (1, 2):
                raise ValueError(f"LSTMCell: Expected hx[{i}] to be 1D or 2D, got {given.dim()}D instead")
        (x,) = autocast(self.weight_ih, input)
        if hx is None:
            zeros = x.new_zeros((*x.shape[:-1], self.hidden_size))
            hx = zeros, zeros
        h, c = autocast(self.weight_ih, *hx)
        self._check(x, h, c)
        B = 1 if x.dim() == 1 else len(x)
        x_1 = x.reshape(1, B, self.input_size)
        h_0, c_0 = (state.reshape(1, B, self.hidden_size) for state in (h, c))
        _, h_n, c_n = layer(x_1, h_0, c_0, weights, bias=self.bias)
        shape = (*x.shape[:-1], self.hidden_size)
        if state is not None and h.shape == c.shape == shape:
            steps.remember(x, h, c, weights)
        return h_n.reshape(shape), c_n.reshape(shape)

    def _check(self, x: Tensor, h: Tensor, c: Tensor) -> None:
        """Raise torch's errors."""
        if x.size(-1) != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {x.size(-1)} expected {self.input_size}")
        for i, state in enumerate((h, c)):
            batch, expected = (t.size(0) if t.dim() == 2 else 1 for t in (state, x))
            if state.size(-1) != self.hidden_size:
                got = f"got {state.size(-1)}, expected {self.hidden_size}"
                raise RuntimeError(f"hidden{i} has inconsistent hidden_size: {got}")
            if batch != expected:
                raise RuntimeError(f"Input batch size {expected} doesn't match hidden{i} batch size {batch}")
        for name, tensor in (("input", x), ("hx[0]", h), ("hx[1]", c)):
            if tensor.dtype != self.weight_ih.dtype:
                dtype = self.weight_ih.dtype
                raise RuntimeError(f"{name} must have the weights' dtype {dtype}, but has {tensor.dtype}")
        require(input=x, weight_ih=self.weight_ih)
