"""`LSTM` as a PyTorch module."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastlstm import directions
from fastlstm.cell import CellSpec, parameter_shapes
from fastlstm.layer import CELL_OPTIONS, spec_of
from fastlstm.torch import steps
from fastlstm.torch.operator import layer, step
from fastlstm.torch.steps import held

__all__ = ["LSTM"]

State = tuple[Tensor, Tensor]


def why_not(tensor: Tensor) -> str:
    """Why this library cannot compute with a tensor, and the way out; empty if it can."""
    if tensor.device.type not in ("cpu", "meta"):
        return f"on the CPU, but is on {tensor.device}: move it with .to('cpu'), or use torch.nn's module there"
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"float32 or float64, but is {tensor.dtype}: convert it with .float(), or use torch.nn's module"
    return ""


def require(**tensors: Tensor) -> None:
    """Raise if this library cannot compute with a tensor."""
    for name, tensor in tensors.items():
        if reason := why_not(tensor):
            raise NotImplementedError(f"{name} must be {reason}")


def autocast(weight: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors; where autocast has lowered some, as the weights are, since this library keeps float32."""
    if weight.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return tuple(tensor.to(weight.dtype) if tensor.is_floating_point() else tensor for tensor in tensors)
    return tensors


def _text(spec: CellSpec) -> str:
    """The options of a cell that are not its defaults, as the operator takes them."""
    usual, found = CellSpec(bias=spec.bias, proj_size=spec.proj_size), {}
    for name in CELL_OPTIONS:
        value = getattr(spec, name)
        if value != getattr(usual, name):
            found[name] = [dataclasses.astuple(kind) for kind in value] if name == "activations" else value
    return json.dumps(found) if found else ""


def _merged(mode: str, y: Tensor) -> Any:
    """From y (..., 2 P) to the output: a tensor or, for `none`, a pair of tensors."""
    forth, back = y.chunk(2, dim=-1)
    if mode == "none":
        return tuple(part.clone(memory_format=torch.contiguous_format) for part in (forth, back))
    if mode == "mul":
        return forth * back
    return (forth + back) / 2 if mode == "ave" else forth + back


def _given_lengths(lengths: Any, rows: int, single: bool) -> Tensor:
    """The lengths of rows (B,)."""
    found = torch.as_tensor(lengths).detach()
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        raise TypeError(f"lengths must be integers, but is of {found.dtype}")
    if single and found.dim() == 0:
        found = found.reshape(1)
    if found.shape != (rows,):
        raise ValueError(f"lengths must have the shape (B,) = ({rows},), but has {tuple(found.shape)}")
    return found.to(device="cpu", dtype=torch.int64)


class LSTM(torch.nn.RNNBase):
    """`torch.nn.LSTM`, computed by fastlstm: the same arguments, attributes, state_dict, inputs and outputs.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        As for `torch.nn.LSTM`. Dropout between layers draws from torch's generator what `torch.nn.LSTM` draws.
    reverse
        Whether a layer of one direction runs from the last step to the first; y stays in the order of `input`.
    merge
        How the outputs of two directions become one: `"concat"`, `"sum"`, `"mul"`, `"ave"` or `"none"`, which leaves a
        pair and takes a single layer (Keras's `merge_mode`). The layers above take P features then, in place of 2 P.
    forget_bias
        Added to the initial bias of the forget gate.
    **cell
        Other cells than torch's: the options of `fastlstm.cell.CellSpec` (peephole, activations, coupled, clip,
        layer_norm, zoneout, recurrent_dropout and what belongs to them). Parameters that torch's cell has not are named
        and shaped as `fastlstm.cell.parameter_shapes` does, with `_l0` and so on appended. What is drawn while training
        comes from torch's generator; in evaluation zoneout takes its expectation, and nothing is dropped.

    Raises
    ------
    NotImplementedError
        Tensors that are not on the CPU or neither float32 nor float64, second derivatives, those in forward mode, and
        `torch.func.vmap`; the message names the way out.
    TypeError, ValueError, RuntimeError
        As `torch.nn.LSTM` raises them; and for an option of the cell that is wrong.

    Notes
    -----
    The parameters may be changed in any way, in place or by assignment: packed copies of them are renewed when a digest
    of the values changes. A `PackedSequence` runs without padding.
    Under autocast this layer stays in the dtype of its parameters.
    """

    # As of a `torch.nn.LSTM` whose class was changed.
    reverse = False
    merge = "concat"
    cell = ""  # the options, as the operator takes them
    forget_bias = 0.0
    zoneout = 0.0, 0.0
    recurrent_dropout = 0.0
    recurrent_dropout_mode = "sequence"

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
        *,
        reverse: bool = False,
        merge: str = "concat",
        forget_bias: float = 0.0,
        **cell: Any,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        other = bool(cell) or (merge != "concat" and num_layers > 1)  # parameters than those that torch makes
        super().__init__("LSTM", input_size, hidden_size, *options, "meta" if other else device, dtype)
        directions.check(reverse, merge, bidirectional, num_layers)
        spec = spec_of(bias, proj_size, forget_bias, cell)
        self.reverse, self.merge, self.forget_bias = reverse, merge, float(forget_bias)
        if other:
            self._become(spec, device, dtype)
            self.reset_parameters()
        elif forget_bias:
            self._shift()

    def _become(self, spec: CellSpec, device: Any, dtype: torch.dtype | None) -> None:
        """Take the parameters of another cell, or of layers whose directions are merged."""
        self.cell = _text(spec)
        self.zoneout, self.recurrent_dropout = spec.zoneout, spec.recurrent_dropout
        self.recurrent_dropout_mode = spec.recurrent_dropout_mode
        above = directions.size(self.merge, 1 + bool(self.bidirectional), self.proj_size or self.hidden_size)
        for names in self._all_weights:
            suffix = names[0].removeprefix("weight_ih")
            inputs = self.input_size if suffix.startswith("_l0") else above
            for name in names:
                delattr(self, name)
            shapes = parameter_shapes(spec, inputs, self.hidden_size)
            names[:] = [name + suffix for name in shapes]
            for name, shape in zip(names, shapes.values(), strict=True):
                self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()

    def reset_parameters(self) -> None:
        """Draw the parameters: as `torch.nn.LSTM`, ones and zeros for a normalisation, and `forget_bias` added."""
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if "_ln_" in name:
                torch.nn.init.constant_(parameter, float(name.startswith("weight")))
        if self.forget_bias:
            self._shift()

    def _shift(self) -> None:
        """Add `forget_bias`."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith("bias_ih"):
                    parameter[self.hidden_size : 2 * self.hidden_size] += self.forget_bias

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        options = [super().extra_repr()]
        options += ["reverse=True"] if self.reverse else []
        options += [f"merge={self.merge!r}"] if self.merge != "concat" else []
        options += [f"forget_bias={self.forget_bias}"] if self.forget_bias else []
        options += [f"{name}={value!r}" for name, value in (json.loads(self.cell) if self.cell else {}).items()]
        return ", ".join(options)

    def forward(
        self, input: Any, hx: State | None = None, *, lengths: Any = None, reset: Tensor | None = None
    ) -> tuple[Any, State]:
        """Run as `torch.nn.LSTM` does.

        Parameters
        ----------
        input
            (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for a single sequence, or a `PackedSequence`.
        hx
            (h_0, c_0), each (D*L, B, H), or (D*L, H) for a single sequence; zeros if None.
        lengths
            (B,), integers between 0 and T, or one for a single sequence: rows end after so many steps. Nothing is
            computed for what follows, y is 0 there, and the reverse direction starts at each row's end. A row of length
            0 hands on its initial state.
        reset
            (T, B), or (B, T), or (T,), as `input` is laid out: where it is not 0, a new sequence begins at that step of
            that row; what comes before it has no influence on what follows, and the other way round if bidirectional.

        Returns
        -------
        y
            (T, B, D*H), or as `input` is laid out; D*H is H where the directions are merged, and a pair is returned if
            `merge` is `"none"`.
        (h_n, c_n)
            Shaped as `hx`; the state after each row's last step.
        """
        weights = None
        if hx is not None and steps.eager(input, hx) and lengths is None and reset is None and self._steps(input):
            weights = held(self, self._all_weights[0])
            if found := step(input, *hx, weights, (*input.shape[:-1], self.hidden_size)):
                return found[0], found[1:]
        sizes = order = back = None
        x, batch_first = input, self.batch_first
        if isinstance(input, PackedSequence):
            for name, given in (("lengths", lengths), ("reset", reset)):
                if given is not None:
                    told = "its batch_sizes tell them" if name == "lengths" else "pack each sequence by itself"
                    raise ValueError(f"{name} must be None where input is a PackedSequence: {told}")
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
        ends = {}
        if sizes is not None:
            ends["sizes"] = sizes
        if lengths is not None:
            ends["lengths"] = _given_lengths(lengths, h_0.shape[1], single)
        if reset is not None:
            starts = self._given_reset(reset, x, single)
            if len(starts) == 1:  # a step of a rollout: it has a kernel of its own for states as they are
                h_0, c_0 = self._begun(starts, h_0, c_0)
            else:
                ends["reset"] = starts
        y, h_n, c_n = self._run(x, h_0, c_0, ends, batch_first, weights)
        if weights is not None:
            steps.remember(x, h_0, c_0, weights)
        if back is not None:
            h_n, c_n = h_n.index_select(1, back), c_n.index_select(1, back)
        if single:
            h_n, c_n = h_n.squeeze(1), c_n.squeeze(1)
        parts = y if isinstance(y, tuple) else (y,)
        if sizes is not None:
            parts = tuple(PackedSequence(part, sizes, order, back) for part in parts)
        elif single:
            parts = tuple(part.squeeze(0 if batch_first else 1) for part in parts)
        return parts if isinstance(y, tuple) else parts[0], (h_n, c_n)

    def _steps(self, input: Any) -> bool:
        """Whether a call is one step of one layer of the plain cell."""
        if type(input) is not Tensor or input.dim() != 3 or input.shape[1 if self.batch_first else 0] != 1:
            return False
        other = self.cell or self.proj_size or self.recurrent_dropout or self.zoneout != (0.0, 0.0)
        return self.num_layers == 1 and not (self.bidirectional or self.reverse or other)

    def _given_reset(self, reset: Any, x: Tensor, single: bool) -> Tensor:
        """Where sequences begin anew, (T, B)."""
        steps = (x.shape[0] * x.shape[1],) if single else tuple(x.shape[:2])
        if not isinstance(reset, Tensor):
            raise TypeError(f"reset must be a tensor, but was {type(reset).__name__}")
        if reset.shape != steps:
            raise ValueError(f"reset must have the shape {steps} of input's steps, but has {tuple(reset.shape)}")
        starts = reset.detach().reshape(x.shape[:2]) != 0
        return starts.t() if self.batch_first else starts

    def _begun(self, starts: Tensor, h_0: Tensor, c_0: Tensor) -> State:
        """The states with which a step (1, B) begins, where some rows begin anew."""
        if self.reverse:  # whose state begins after that step
            return h_0, c_0
        kept = ~starts[0][:, None]
        if self.bidirectional:  # whose second direction ends there
            kept = torch.stack([kept, torch.ones_like(kept)]).repeat(self.num_layers, 1, 1)
        return torch.where(kept, h_0, 0), torch.where(kept, c_0, 0)

    def _masks(self, x: Tensor, steps: int, rows: int) -> dict[str, Tensor]:
        """What multiplies the states of a layer: drawn while training, else its expectation."""
        D, P, masks = 2 if self.bidirectional else 1, self.proj_size or self.hidden_size, {}
        if self.training and self.recurrent_dropout:
            each = steps if self.recurrent_dropout_mode == "step" else 1
            masks["recurrent"] = torch.nn.functional.dropout(x.new_ones(D, each, rows, P), self.recurrent_dropout)
        for name, rate, n in zip(("zoneout_c", "zoneout_h"), self.zoneout, (self.hidden_size, P), strict=True):
            if rate and self.training:
                masks[name] = torch.bernoulli(x.new_full((D, steps, rows, n), rate))
            elif rate:
                masks[name] = x.new_full((1, 1, 1, n), rate)
        return masks

    def _run(
        self, x: Tensor, h_0: Tensor, c_0: Tensor, ends: dict[str, Tensor], batch_first: bool,
        given: list[Tensor] | None,
    ) -> tuple[Any, Tensor, Tensor]:  # fmt: skip
        """All layers; between them time comes first, so that dropout draws for the elements in torch's order. The
        parameters of an only layer may be `given`: to get some, parametrised ones, computes them.
        """
        L, D, hs, cs = self.num_layers, 2 if self.bidirectional else 1, [], []
        masked, masks = self.recurrent_dropout or self.zoneout != (0.0, 0.0), {}
        for k in range(L):
            names = [name for names in self._all_weights[k * D : (k + 1) * D] for name in names]
            weights = given or held(self, names)
            h, c = (h_0, c_0) if L == 1 else (h_0[k * D : (k + 1) * D], c_0[k * D : (k + 1) * D])
            if masked:
                steps = len(ends["sizes"]) if "sizes" in ends else x.shape[1 if batch_first and k == 0 else 0]
                masks = self._masks(x, steps, h_0.shape[1])
            x, h, c = layer(
                x, h, c, weights, **ends, **masks, x_first=batch_first and k == 0,
                y_first=batch_first and k == L - 1, reverse=self.reverse, cell=self.cell, bias=self.bias,
            )  # fmt: skip
            x = x if self.merge == "concat" else _merged(self.merge, x)
            hs.append(h)
            cs.append(c)
            if self.training and self.dropout > 0 and k < L - 1:
                x = torch.nn.functional.dropout(x, self.dropout)
        return (x, hs[0], cs[0]) if L == 1 else (x, torch.cat(hs), torch.cat(cs))

    def _checked(self, x: Tensor, hx: State | None, sizes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x, h_0 and c_0, or torch's errors."""
        dims = 3 if sizes is None else 2
        weight: Tensor = self.weight_ih_l0  # type: ignore[assignment]
        (x,) = autocast(weight, x)
        if x.dtype != weight.dtype:
            raise ValueError(
                f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
            )
        require(input=x, weight_ih_l0=weight)
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
        h_0, c_0 = autocast(weight, hx[0], hx[1])
        for i, (state, shape) in enumerate(zip((h_0, c_0), shapes, strict=True)):
            if state.shape != shape:
                raise RuntimeError(f"Expected hidden[{i}] size {shape}, got {list(state.shape)}")
            if state.dtype != x.dtype or state.device != x.device:
                found = f"{state.dtype} on {state.device}"
                raise RuntimeError(f"hidden[{i}] must be {x.dtype} on {x.device}, as input is, but is {found}")
        return x, h_0, c_0
