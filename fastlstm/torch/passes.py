"""One LSTM layer on PyTorch's tensors: how their memory reaches the passes, forward and backward.

They read and write the tensors' own memory. A call takes as many threads as both torch and this library allow;
neither's settings are changed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlstm.cell import CellSpec
from fastlstm.passes import calls, packing
from fastlstm.passes.frames import MOMENTS
from fastlstm.plan import plan_backward, plan_forward
from fastlstm.runtime.threads import get_num_threads
from fastlstm.runtime.variant import Variant
from fastlstm.sequences import Layout, PackedSequence, from_lengths, from_packed, ragged_of
from fastlstm.torch import sequences
from fastlstm.torch.inputs import Inputs, cell_of, check, options_of, shapes_of
from fastlstm.torch.memory import array_of, empty
from fastlstm.torch.packs import packs_of
from fastlstm.torch.steps import one_step

__all__ = ["backward", "forward", "gradients", "outputs"]


def _view(tensor: Tensor, batch_first: bool, even: bool = False) -> np.ndarray:
    """The rows (T, B, n) or (N, n); copies where a pass cannot take the strides, or wants rows evenly apart: 0, as of
    an expanded tensor, would tell it that they were packed for it.
    """
    array = tensor.detach().numpy()
    array = array.transpose(1, 0, 2) if batch_first and array.ndim == 3 else array
    fits = array.strides[-1] == array.itemsize and (not even or bool(calls.row_stride(array)))
    return array if fits else np.ascontiguousarray(array)


def _layout(call: Inputs, x: np.ndarray) -> tuple[Layout, calls.Ragged | None]:
    """Which rows take which steps, of x (T, B, I) or packed."""
    (D, B, P), H, zeros = call.h_0.shape, call.c_0.shape[2], None
    if call.sizes is not None:
        layout = from_packed(PackedSequence(x, call.sizes.numpy()))
        if layout.B != B:
            raise ValueError(f"batch_sizes must begin with the {B} rows of h_0, but begin with {layout.B}")
    else:
        T = len(x)
        layout = Layout(T, B) if call.lengths is None else from_lengths(call.lengths.numpy(), T, B)
    flags = None
    if call.reset is not None:
        flags = np.ascontiguousarray(call.reset.numpy())
        if flags.dtype != np.bool_ or flags.shape != (layout.T, B):
            raise RuntimeError(f"reset must be bool of {(layout.T, B)}, but is {flags.dtype} of {flags.shape}")
        zeros = np.zeros((D, B, P), x.dtype), np.zeros((D, B, H), x.dtype)
    ragged = ragged_of(layout, call.directions, flags)
    if ragged is not None and zeros is not None:
        ragged = ragged._replace(h_reset=zeros[0], c_reset=zeros[1])
    return layout, ragged


def _masks(call: Inputs, layout: Layout) -> list[calls.Masks] | None:
    """The factors of each direction."""
    (D, B, P), H = call.h_0.shape, call.c_0.shape[2]
    given = {"recurrent": (call.recurrent, P), "zoneout_c": (call.zoneout_c, H), "zoneout_h": (call.zoneout_h, P)}
    masks = {}
    for name, (mask, n) in given.items():
        if mask is not None:
            if mask.dtype != call.x.dtype or mask.shape[-1] != n:
                found = f"{mask.dtype} of {tuple(mask.shape)}"
                raise RuntimeError(f"{name} must be {call.x.dtype} of {n} features, but is {found}")
            masks[name] = np.broadcast_to(array_of(mask), (D, layout.T, B, n))
    return [calls.Masks(**{name: mask[d] for name, mask in masks.items()}) for d in range(D)] if masks else None


def _weights(way: str, call: Inputs, spec: CellSpec, variant: Variant) -> list[Any]:
    """The packed weights of each direction."""
    return [packed.weights for packed in packs_of(way, call, spec, variant)]


def threads() -> int:
    """As many as both allow: torch's limit in workers of a DataLoader and under torchrun holds here too."""
    return min(get_num_threads(), torch.get_num_threads())


# --- forward and backward ---------------------------------------------------------------------------------------------


def _widths(call: Inputs) -> list[int]:
    """Elements that a row of the tape takes for each field of `Taped`; 0: it is not kept."""
    P, H = call.h_0.shape[2], call.c_0.shape[2]
    keeps = call.ends or call.other
    normed = options_of(call.cell).get("layer_norm")
    return [4 * H, H, P if keeps else 0, *([4 * H, 4 * H, MOMENTS] if normed else [0, 0, 0])]


def _outputs(call: Inputs, empty: Callable[[Tensor, tuple[int, ...]], Tensor]) -> tuple[Tensor, ...]:
    """Uninitialised outputs of `forward`, with a tape that `empty` makes."""
    new, D = call.x.new_empty, call.h_0.shape[0]
    y, h_n, c_n = new(call.y_shape), new(tuple(call.h_0.shape)), new(tuple(call.c_0.shape))
    if not call.keep:
        return y, h_n, c_n, new((D, 0))
    N = call.x.shape[0] * (call.x.shape[1] if call.sizes is None else 1)
    return y, h_n, c_n, empty(call.x, (D, N * sum(_widths(call))))


def outputs(*inputs: Any) -> tuple[Tensor, ...]:
    """Uninitialised outputs of `forward`."""
    return _outputs(Inputs(*inputs), Tensor.new_empty)


def _taped(call: Inputs, tape: Tensor, rows: int, variant: Variant) -> list[calls.Taped]:
    """The tape of each direction, of so many rows."""
    widths, found, H = _widths(call), [], call.c_0.shape[2]
    ends = list(accumulate(widths, initial=0))
    for flat in tape.numpy():
        gates, cells, before, units_ih, units_hh, moments = [
            flat[rows * a : rows * (a + n)].reshape(rows, n) if n else flat for a, n in zip(ends, widths, strict=False)
        ]
        taped = calls.Taped(gates.reshape(rows, 4, H), cells)
        taped = taped._replace(inputs=before) if variant.keeps else taped
        if variant.normed:
            units = (units_ih.reshape(rows, 4, H), units_hh.reshape(rows, 4, H))
            taped = taped._replace(units_ih=units[0], units_hh=units[1], moments=moments)
        found.append(taped)
    return found


def forward(*inputs: Any) -> tuple[Tensor, ...]:
    """y, h_n, c_n and the tape (D, n)."""
    call = Inputs(*inputs)
    # Users may resize what they see, which memory of ours cannot: of the outputs the tape alone has it.
    y, h_n, c_n, tape = made = _outputs(call, empty)
    if c_n.numel() == 0 or one_step(call, y, h_n, c_n, tape):
        return made
    if sequences.forward(call, y, h_n, c_n, tape, threads()):
        return made
    spec, variant = cell_of(call)
    check(call)
    packs, x = _weights("forward", call, spec, variant), _view(call.x, call.x_first)
    (layout, ragged), D, H = _layout(call, x), call.h_0.shape[0], call.c_0.shape[2]
    if ragged is not None:  # what takes no step keeps its state, and y is 0 there
        h_n.copy_(call.h_0.detach())
        c_n.copy_(call.c_0.detach())
        if call.lengths is not None:
            y.zero_()
    if layout.size == 0:
        return made
    even = layout.offsets is not None or calls.row_stride(x) is not None
    plan = plan_forward(
        layout.steps, layout.B, x.shape[-1], H, D, x.dtype, threads(), even and not variant.normed, variant.whole,
        packing.in_digits(variant, x.shape[-1], call.h_0.shape[2])[1],
    )  # fmt: skip
    x = x[layout.places()] if plan.chunk and call.lengths is not None else x
    calls.forward(
        variant, plan, x, packs, array_of(call.h_0), array_of(call.c_0),
        _view(y, call.y_first), h_n.numpy(), c_n.numpy(),
        _taped(call, tape, layout.size, variant) if call.keep else [], call.directions, ragged, _masks(call, layout),
    )  # fmt: skip
    return made


def gradients(*inputs: Any) -> list[Tensor]:
    """Uninitialised outputs of `backward`."""
    call = Inputs(*inputs[4:])
    return [t.new_empty(t.shape) for t in (call.x, call.h_0, call.c_0, *call.weights)]


def backward(dy: Tensor, dh_n: Tensor, dc_n: Tensor, tape: Tensor, *inputs: Any) -> list[Tensor]:
    """dx, dh_0, dc_0, then the gradient of each of the weights."""
    call = Inputs(*inputs)
    if call.c_0.numel() == 0:
        return [out.zero_() for out in gradients(dy, dh_n, dc_n, tape, *inputs)]
    if tape.numel() == 0:  # where none was kept
        *_, tape = forward(*call._replace(keep=True))
    if (prepared := sequences.backward(call, dy, dh_n, dc_n, tape, threads())) is not None:
        return prepared
    spec, variant = cell_of(call)
    check(call)
    x = _view(call.x, call.x_first, even=True)
    (layout, ragged), D, H = _layout(call, x), call.h_0.shape[0], call.c_0.shape[2]
    dh_0, dc_0 = (d.clone(memory_format=torch.contiguous_format) for d in (dh_n, dc_n))  # of rows without steps
    if layout.size == 0:
        return [torch.zeros_like(call.x), dh_0, dc_0, *map(torch.zeros_like, call.weights)]
    dxs = [empty(call.x, tuple(call.x.shape)) for _ in range(D)]
    if call.lengths is not None:
        for dx in dxs:
            dx.zero_()
    x = x if call.lengths is None else x[layout.places()]
    plan = plan_backward(layout.steps, layout.B, x.shape[-1], H, D, x.dtype, threads(), variant.whole)
    packs = _weights("digits" if plan.in_unit else "backward", call, spec, variant)
    grads = calls.backward(
        variant, spec, plan, x, packs, _taped(call, tape, layout.size, variant), array_of(call.h_0), array_of(call.c_0),
        _view(dy, call.y_first), array_of(dh_n), array_of(dc_n), [_view(dx, call.x_first) for dx in dxs],
        dh_0.numpy(), dc_0.numpy(), call.directions, ragged, _masks(call, layout),
    )  # fmt: skip
    for dx in dxs[1:]:
        dxs[0] += dx
    names = shapes_of(spec, x.shape[-1], H)
    return [dxs[0], dh_0, dc_0, *(torch.from_numpy(named[name]) for named in grads for name in names)]
