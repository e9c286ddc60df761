"""PyTorch: `LSTM` and `LSTMCell` as modules in the places of torch's own; `accelerate` swaps those of a model.

Gradients go through a registered operator, so autograd, `torch.compile`, `torch.export`, `functional_call` and
`DistributedDataParallel` work as with any module. Contiguous tensors are not copied, and neither torch's thread
settings nor this library's are changed: a call takes as many threads as both allow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("fastlstm.torch needs PyTorch: pip install 'fastlstm[torch]'", name="torch") from None
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastlstm import torch_segments as segments
from fastlstm.torch_operator import layer

__all__ = ["LSTM", "LSTMCell", "Report", "accelerate"]

State = tuple[Tensor, Tensor]


def _why_not(tensor: Tensor) -> str:
    """Why this library cannot compute with a tensor, and the way out; empty if it can."""
    if tensor.device.type not in ("cpu", "meta"):
        return f"on the CPU, but is on {tensor.device}: move it with .to('cpu'), or use torch.nn's module there"
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"float32 or float64, but is {tensor.dtype}: convert it with .float(), or use torch.nn's module"
    return ""


def _require(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if reason := _why_not(tensor):
            raise NotImplementedError(f"{name} must be {reason}")


def _autocast(weight: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors; where autocast has lowered some, as the weights are, since this library keeps float32."""
    if weight.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return tuple(tensor.to(weight.dtype) if tensor.is_floating_point() else tensor for tensor in tensors)
    return tensors


class LSTM(torch.nn.RNNBase):
    """`torch.nn.LSTM`, computed by fastlstm: the same arguments, attributes, state_dict, inputs and outputs.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        As for `torch.nn.LSTM`. Dropout between layers draws from torch's generator what `torch.nn.LSTM` draws.

    Raises
    ------
    NotImplementedError
        Tensors that are not on the CPU or neither float32 nor float64, and second derivatives; the message
        names the way out.
    TypeError, ValueError, RuntimeError
        As `torch.nn.LSTM` raises them.

    Notes
    -----
    The parameters may be changed in any way, in place or by assignment: packed copies of them are renewed when a digest
    of the values changes. A `PackedSequence` runs without padding.
    Under autocast this layer stays in the dtype of its parameters.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)
        super().__init__("LSTM", input_size, hidden_size, *options)

    def forward(self, input: Any, hx: State | None = None, *, reset: Tensor | None = None) -> tuple[Any, State]:
        """Run as `torch.nn.LSTM` does.

        Parameters
        ----------
        input
            (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for a single sequence, or a `PackedSequence`.
        hx
            (h_0, c_0), each (D*L, B, H), or (D*L, H) for a single sequence; zeros if None.
        reset
            (T, B), or (B, T), or (T,), as `input` is laid out: where it is not 0, a new sequence begins at that step of
            that row; what comes before it has no influence on what follows, and the other way round if bidirectional.

        Returns
        -------
        y
            (T, B, D*H), or as `input` is laid out.
        (h_n, c_n)
            Shaped as `hx`.
        """
        sizes = order = back = None
        x, batch_first = input, self.batch_first
        if isinstance(input, PackedSequence):
            if reset is not None:
                raise ValueError("reset must be None where input is a PackedSequence: pack each sequence by itself")
            x, sizes, order, back = input
            batch_first = False
        elif x.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {x.dim()}D instead")
        single = sizes is None and x.dim() == 2
        if hx is not None and sizes is None and (hx[0].dim(), hx[1].dim()) != (x.dim(), x.dim()):
            what = f"{'unbatched' if single else 'batched'} {x.dim()}-D input, hx and cx should also be {x.dim()}-D"
            raise RuntimeError(f"For {what} but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors")
        if single:
            x = x.unsqueeze(0 if batch_first else 1)
            hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        x, h_0, c_0 = self._checked(x, hx, sizes)
        if order is not None and hx is not None:
            h_0, c_0 = h_0.index_select(1, order), c_0.index_select(1, order)
        if reset is None:
            y, h_n, c_n = self._run(x, h_0, c_0, sizes, batch_first)
        else:
            y, h_n, c_n = self._run_anew(x, h_0, c_0, reset, single)
        if sizes is not None:
            if back is not None:
                h_n, c_n = h_n.index_select(1, back), c_n.index_select(1, back)
            return PackedSequence(y, sizes, order, back), (h_n, c_n)
        if single:
            y, h_n, c_n = y.squeeze(0 if batch_first else 1), h_n.squeeze(1), c_n.squeeze(1)
        return y, (h_n, c_n)

    def _run_anew(
        self, x: Tensor, h_0: Tensor, c_0: Tensor, reset: Tensor, single: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`_run` where sequences begin anew at some steps."""
        steps = (x.shape[0] * x.shape[1],) if single else tuple(x.shape[:2])
        if not isinstance(reset, Tensor):
            raise TypeError(f"reset must be a tensor, but was {type(reset).__name__}")
        if reset.shape != steps:
            raise ValueError(f"reset must have the shape {steps} of input's steps, but has {tuple(reset.shape)}")
        starts = reset.detach().reshape(x.shape[:2]) != 0
        starts = starts.t() if self.batch_first else starts
        if bool(starts[1:].any()):
            x = x.transpose(0, 1) if self.batch_first else x

            def packed(rows: Tensor, h: Tensor, c: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                return self._run(rows, h, c, sizes, False)

            y, h_n, c_n = segments.run(packed, x, h_0, c_0, starts, self.bidirectional)
            return y.transpose(0, 1) if self.batch_first else y, h_n, c_n
        kept = ~starts[0][:, None]
        if self.bidirectional:  # whose second direction ends there
            kept = torch.stack([kept, torch.ones_like(kept)]).repeat(self.num_layers, 1, 1)
        h_0, c_0 = (torch.where(kept, state, 0) for state in (h_0, c_0))
        return self._run(x, h_0, c_0, None, self.batch_first)

    def _run(
        self, x: Tensor, h_0: Tensor, c_0: Tensor, sizes: Tensor | None, batch_first: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All layers; between them time comes first, so that dropout draws for the elements in torch's order."""
        L, D, hs, cs = self.num_layers, 2 if self.bidirectional else 1, [], []
        for k in range(L):
            weights: list[Any] = []
            for suffix in (f"{k}", f"{k}_reverse")[:D]:
                weights += [getattr(self, "weight_ih_l" + suffix), getattr(self, "weight_hh_l" + suffix)]
                biases = ("bias_ih_l" + suffix, "bias_hh_l" + suffix)
                weights += [getattr(self, name) for name in biases] if self.bias else [None, None]
                weights.append(getattr(self, "weight_hr_l" + suffix) if self.proj_size else None)
            h, c = (h_0, c_0) if L == 1 else (h_0[k * D : (k + 1) * D], c_0[k * D : (k + 1) * D])
            x, h, c = layer(x, h, c, sizes, batch_first and k == 0, batch_first and k == L - 1, *weights)
            hs.append(h)
            cs.append(c)
            if self.training and self.dropout > 0 and k < L - 1:
                x = torch.nn.functional.dropout(x, self.dropout)
        return (x, hs[0], cs[0]) if L == 1 else (x, torch.cat(hs), torch.cat(cs))

    def _checked(self, x: Tensor, hx: State | None, sizes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x, h_0 and c_0, or torch's errors."""
        dims = 3 if sizes is None else 2
        weight: Tensor = self.weight_ih_l0  # type: ignore[assignment]
        (x,) = _autocast(weight, x)
        if x.dtype != weight.dtype:
            raise ValueError(
                f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
            )
        _require(input=x, weight_ih_l0=weight)
        if x.dim() != dims:
            raise RuntimeError(f"input must have {dims} dimensions, got {x.dim()}")
        if x.size(-1) != self.input_size:
            sizes_told = f"Expected {self.input_size}, got {x.size(-1)}"
            raise RuntimeError(f"input.size(-1) must be equal to input_size. {sizes_told}")
        if x.size(1 if self.batch_first and sizes is None else 0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        B = int(sizes[0]) if sizes is not None else x.size(0 if self.batch_first else 1)
        rows = (self.num_layers * (2 if self.bidirectional else 1), B)
        shapes = (*rows, self.proj_size or self.hidden_size), (*rows, self.hidden_size)
        if hx is None:
            zeros = x.new_zeros(shapes[1])
            return x, x.new_zeros(shapes[0]) if self.proj_size else zeros, zeros
        h_0, c_0 = _autocast(weight, hx[0], hx[1])
        for i, (state, shape) in enumerate(zip((h_0, c_0), shapes, strict=True)):
            if tuple(state.shape) != shape:
                raise RuntimeError(f"Expected hidden[{i}] size {shape}, got {list(state.shape)}")
            if state.dtype != x.dtype or state.device != x.device:
                found = f"{state.dtype} on {state.device}"
                raise RuntimeError(f"hidden[{i}] must be {x.dtype} on {x.device}, as input is, but is {found}")
        return x, h_0, c_0


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
        if input.dim() not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for i, state in enumerate(hx or ()):
            if state.dim() not in (1, 2):
                raise ValueError(f"LSTMCell: Expected hx[{i}] to be 1D or 2D, got {state.dim()}D instead")
        (x,) = _autocast(self.weight_ih, input)
        if hx is None:
            zeros = x.new_zeros((*x.shape[:-1], self.hidden_size))
            hx = zeros, zeros
        h, c = _autocast(self.weight_ih, *hx)
        self._check(x, h, c)
        B = 1 if x.dim() == 1 else len(x)
        x_1 = x.reshape(1, B, self.input_size)
        h_0, c_0 = (state.reshape(1, B, self.hidden_size) for state in (h, c))
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        _, h_n, c_n = layer(x_1, h_0, c_0, None, False, False, *weights)
        shape = (*x.shape[:-1], self.hidden_size)
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
        _require(input=x, weight_ih=self.weight_ih)


@dataclass
class Report:
    """What `accelerate` did."""

    swapped: list[str] = field(default_factory=list)
    """Names of the modules that fastlstm computes now, as in `model.named_modules()`."""
    left: dict[str, str] = field(default_factory=dict)
    """Names of the recurrent modules that were left as they were, each with the reason."""

    def __str__(self) -> str:
        """A line for each module."""
        lines = [f"swapped {name or '(the model itself)'}" for name in self.swapped]
        lines += [f"left    {name or '(the model itself)'}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines) or "no recurrent module found"


def accelerate(model: torch.nn.Module) -> Report:
    """Let fastlstm compute every `torch.nn.LSTM` of a model, in place.

    A module changes its class and keeps all else: its parameters, its names in `state_dict()`, its hooks, its mode, and
    every reference to it. What this library cannot compute is left as it was: subclasses (their `forward` may be
    another), modules on other devices or of other types than float32 and float64. Other recurrent modules
    are left too, among them `torch.nn.LSTMCell`: a step that torch calls by itself gains little; use
    `fastlstm.torch.LSTMCell` where it does. A recurrent policy of sb3-contrib, which loops over the steps of a batch
    where an episode begins, runs them in one call instead (`reset` of `LSTM.forward`).

    Parameters
    ----------
    model
        Any module, also an LSTM itself.

    Returns
    -------
    Report
        What was swapped, and what was left and why; `print` it.

    Raises
    ------
    TypeError
        If `model` is no `torch.nn.Module`.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but was {type(model).__name__}")
    report = Report()
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase) or isinstance(module, LSTM | LSTMCell):
            continue
        if reason := _why_left(module):
            report.left[name] = reason
        else:
            module.__class__ = LSTM
            report.swapped.append(name)
    for name, module in model.named_modules():
        if _loops_over_resets(module):
            module._process_sequence = _process_sequence
            report.swapped.append(f"{name}._process_sequence".lstrip("."))
    return report


def _loops_over_resets(module: torch.nn.Module) -> bool:
    """Whether a module is a policy of sb3-contrib, which runs its LSTM step by step where an episode begins, if all its
    LSTMs are of this library.
    """
    if not all(isinstance(part, LSTM) for part in module.modules() if isinstance(part, torch.nn.RNNBase)):
        return False
    home = "sb3_contrib.common.recurrent.policies"
    for kind in type(module).__mro__:
        if "_process_sequence" in vars(kind):  # unless a subclass has its own
            return (kind.__module__, kind.__name__) == (home, "RecurrentActorCriticPolicy")
    return False


def _process_sequence(
    features: Tensor, lstm_states: State, episode_starts: Tensor, lstm: torch.nn.LSTM
) -> tuple[Tensor, State]:
    """What that policy's method of this name computes, in one call: features (B * T, I), starts (B * T,)."""
    rows = lstm_states[0].shape[1]
    x = features.reshape(rows, -1, lstm.input_size).transpose(0, 1)
    y, states = lstm(x, lstm_states, reset=episode_starts.reshape(rows, -1).t())
    return y.transpose(0, 1).flatten(0, 1), states


def _why_left(module: torch.nn.Module) -> str:
    """Why `accelerate` leaves a recurrent module; empty if it swaps it."""
    kind = type(module).__name__
    if type(module) is not torch.nn.LSTM:
        subclass = isinstance(module, torch.nn.LSTM)
        return f"{kind} is a subclass, which may compute something else" if subclass else f"{kind} is no torch.nn.LSTM"
    for name, parameter in module.named_parameters():
        if reason := _why_not(parameter):
            return f"{name} must be {reason}"
    return ""
