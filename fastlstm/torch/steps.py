"""Short calls: of one step forward, and of few rows backward.

They read the weights as they lie, which need not be packed, nor be known to be the same as before, but where packed
ones are so much faster that a digest of them pays. A step that is as one before is not put together anew: that takes
forty microseconds, and what it computes a few.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastlstm.passes import packing
from fastlstm.passes.shapes import Shape
from fastlstm.passes.short import ShortForward
from fastlstm.passes.short_step import ShortBackward, ShortStep
from fastlstm.passes.templates import Rows
from fastlstm.plan import ROWS
from fastlstm.runtime.memory import address, places_of
from fastlstm.torch.inputs import NAMES, Inputs, cell_of, check, of_step
from fastlstm.torch.memory import lie
from fastlstm.torch.packs import Packed, packs_of


@lru_cache(64)
def _short_step(B: int, I: int, H: int, dtype: torch.dtype) -> ShortStep:
    return ShortStep(B, I, H, packing.plain_variant(NAMES[dtype]))


@lru_cache(64)
def few_rows(T: int, B: int, I: int, H: int, dtype: torch.dtype) -> ShortBackward:
    """What differentiates calls of few rows."""
    x, y, state, variant = (T, B, I), (T, B, H), (1, B, H), packing.plain_variant(NAMES[dtype])
    return ShortBackward(T, B, I, H, Rows(B * H, H, False), x, y, state, variant)


@lru_cache(16)
def _zeros(n: int, dtype: torch.dtype) -> Tensor:
    """What stands for a bias where there is none."""
    return torch.zeros(n, dtype=dtype, device="cpu")  # whatever torch's default is


@lru_cache(64)
def _packed_step(B: int, I: int, H: int, dtype: torch.dtype) -> ShortForward | None:
    """What runs a step of few rows from packed weights, where that is so much faster that it is worth a digest of them:
    where they are packed in digits.
    """
    variant = packing.plain_variant(NAMES[dtype])
    shape = Shape(
        (1, B, I), (1, B, H), (1, B, H), 1, B, I, H, 1, 1, False, False, np.dtype(variant.dtype), variant, alone=True
    )  # fmt: skip
    if not packing.in_digits(variant, I, H)[1] or not ShortForward.fits(shape):
        return None
    return ShortForward(shape)


class Way(NamedTuple):
    """What runs a call, and where it finds the weights."""

    run: ShortForward | ShortStep
    weights: list[int]


def _lying(B: int, weights: Sequence[Tensor]) -> tuple[Way, Sequence[Tensor]]:
    """A step of B rows by the weights as they lie, and the biases, which must live as long."""
    w_ih, w_hh, *given = weights
    biases = given or (_zeros(w_ih.shape[0], w_ih.dtype),) * 2
    run = _short_step(B, w_ih.shape[1], w_hh.shape[1], w_ih.dtype)
    return Way(run, [weight.data_ptr() for weight in (w_ih, w_hh, *biases)]), biases


def taped(tape: Tensor | None, elements: int) -> list[int]:
    """Where the gates and c of a tape lie, of so many elements of c; 0 without one."""
    if tape is None:
        return [0, 0]
    gates = tape.data_ptr()
    return [gates, gates + 4 * elements * tape.element_size()]


def run_into(
    way: Way, x: Tensor, h_0: Tensor, c_0: Tensor, y: Tensor, h_n: Tensor, c_n: Tensor, tape: Tensor | None
) -> None:
    """Write y, h_n and c_n of a call, and the tape: its gates, then its c."""
    places = [tensor.data_ptr() for tensor in (x, h_0, c_0, y, h_n, c_n)]
    way.run.run(*way.weights, *places, *taped(tape, y.numel()))


def one_step(call: Inputs, y: Tensor, h_n: Tensor, c_n: Tensor, tape: Tensor) -> bool:
    """Run a call of one step in one direction; False if the call is another."""
    x, weights = call.x, call.weights
    if not call.simple or x.shape[1 if call.x_first else 0] != 1 or not lie(x, call.h_0, call.c_0, *weights):
        return False
    check(call)
    B, H = call.h_0.shape[1:]
    if not call.keep and (prepared := _packed_step(B, x.shape[2], H, x.dtype)) is not None:
        (packed,) = packs_of("forward", call, *cell_of(call))
        way = Way(prepared, places_of(packed.weights))
    else:
        way, _ = _lying(B, weights)
    run_into(way, x, call.h_0, call.c_0, y, h_n, c_n, tape if call.keep else None)
    return True


class Known(NamedTuple):
    """How to run a step as one before."""

    plain: Way  # by the weights as they lie
    quick: tuple[Way, weakref.ref[Packed]] | None  # by packed ones
    backward: ShortBackward | None  # of few rows
    zeros: Sequence[Tensor]  # what stands for biases lies there as long as this

    def tape(self, h_0: Tensor) -> Tensor:
        """Room for a tape."""
        return h_0.new_empty(5 * h_0.numel())

    def call(self, x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor]) -> Inputs:
        """The same for the way that all calls can go."""
        return of_step(x, h_0, c_0, weights)

    def differentiate(
        self, tape: Tensor, x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor],
        douts: Sequence[Tensor | None],
    ) -> list[Tensor] | None:  # fmt: skip
        """The gradients, from those of y, which may be left out, h_n and c_n."""
        return None if self.backward is None else differentiate(self.backward, tape, x, h_0, c_0, weights, douts)


_known: dict[tuple, Known] = {}
_MOST = 256  # of them


def eager(x: Any, state: Any) -> bool:
    """Whether nobody traces or transforms a call, and it has a state, all plain tensors in the CPU's memory."""
    if torch.compiler.is_compiling() or type(state) not in (tuple, list) or len(state) != 2:
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active():
        return False
    if torch.jit.is_tracing() or torch.is_autocast_enabled("cpu") or forward_ad._current_level >= 0:
        return False
    # What hooks save must be the same tensors each time that a call is computed, as checkpoints do.
    if torch.is_grad_enabled() and torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return False
    for tensor in (x, *state):
        if type(tensor) is not Tensor or not tensor.is_cpu or tensor.is_neg():
            return False
    return True


def held(module: torch.nn.Module, names: Sequence[str]) -> list[Tensor]:
    """Parameters of a module; those that it holds as such, and nothing else in their place, are found without its
    `__getattr__`, which takes as long for four as what a small step computes.
    """
    own, others = module._parameters, module.__dict__
    return [own[n] if n in own and n not in others else getattr(module, n) for n in names]  # type: ignore[misc]


def key_of_call(x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor]) -> tuple:
    """What a call is known by: all that its checks look at, and where its weights lie."""
    told = [(weight.shape, weight.dtype, weight.data_ptr()) for weight in weights]
    return x.shape, h_0.shape, c_0.shape, x.dtype, h_0.dtype, c_0.dtype, *told


def remember(x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor]) -> None:
    """Note a call of the plain cell that was found right, for `find`; it is no step if it takes several."""
    B, I, H = h_0.numel() // h_0.shape[-1], x.shape[-1], h_0.shape[-1]
    if B == 0 or x.numel() != B * I or not lie(x, h_0, c_0, *weights):
        return
    if B > ROWS and torch.is_grad_enabled():  # whose gradients take the long way: nobody would ask for it
        return
    (plain, biases), quick = _lying(B, weights), None
    if (prepared := _packed_step(B, I, H, x.dtype)) is not None:
        call = of_step(x, h_0, c_0, weights)
        (packed,) = packs_of("forward", call, *cell_of(call))
        quick = Way(prepared, places_of(packed.weights)), weakref.ref(packed)
    backward = few_rows(1, B, I, H, x.dtype) if B <= ROWS else None
    _known[key_of_call(x, h_0, c_0, weights)] = Known(plain, quick, backward, () if len(weights) == 4 else biases)
    for oldest in list(_known)[: max(0, len(_known) - _MOST)]:
        _known.pop(oldest, None)


def find(x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor]) -> Known | None:
    """How to run a step, if there was one like it. The tensors must be `eager`."""
    known = _known.get(key_of_call(x, h_0, c_0, weights))
    return known if known is not None and lie(x, h_0, c_0, *weights) else None


def way(known: Known, keep: bool) -> tuple[Way, Packed | None] | None:
    """How to run it now, and what must live meanwhile; None if the weights are to be packed anew. They are for a step
    in inference, and for one with a tape if they have not changed since the last look: packing takes as long as three.
    """
    if known.quick is None:
        return known.plain, None
    quick, held = known.quick
    if (packed := held()) is None:
        return None
    before = packed.last
    if packed.holds():
        return quick, packed
    return (known.plain, None) if keep and packed.last != before else None


def run(
    way: Way, x: Tensor, h_0: Tensor, c_0: Tensor, y_shape: tuple[int, ...] | None, tape: Tensor | None = None
) -> tuple[Tensor, ...]:
    """(y, h_n, c_n), or of a step without a shape of y (h_n, c_n)."""
    h_n, c_n = torch.empty_like(h_0), torch.empty_like(c_0)
    made = (h_n, c_n) if y_shape is None else (h_0.new_empty(y_shape), h_n, c_n)
    run_into(way, x, h_0, c_0, made[0], h_n, c_n, tape)  # without a shape y lies where h_n does
    return made


def differentiate(
    backward: ShortBackward, tape: Tensor, x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor],
    douts: Sequence[Tensor | None],
) -> list[Tensor]:  # fmt: skip
    """The gradients of few rows, from those of y, which may be left out, h_n and c_n."""
    w_ih, w_hh = weights[:2]
    dense = [None if d is None else d.contiguous() for d in douts]
    zeros = address(backward.nothing)
    given = [zeros] * (3 - len(dense)) + [zeros if d is None else d.data_ptr() for d in dense]
    found = [torch.empty_like(tensor) for tensor in (x, h_0, c_0, w_ih, w_hh)]
    found.append(w_ih.new_empty(w_ih.shape[0]))
    kept = taped(tape, x.numel() // x.shape[-1] * h_0.shape[-1])
    places = [x.data_ptr(), *kept, h_0.data_ptr(), c_0.data_ptr(), *given]
    backward.run(*places, *[tensor.data_ptr() for tensor in (w_ih, w_hh, *found)])
    return [*found, found[5].clone()] if len(weights) == 4 else found[:5]
