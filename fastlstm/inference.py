"""Inference: what layers of every kind of weights do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastlstm import checks, directions
from fastlstm.layer_call import State, forward
from fastlstm.parameterised import Parameterised
from fastlstm.passes import packing
from fastlstm.passes.shapes import Shape
from fastlstm.passes.short import ShortForward
from fastlstm.plan import Plan, plan_backward, plan_forward
from fastlstm.runtime.threads import get_num_threads
from fastlstm.stream import Stream

SHORT_FLOPS = 1e10  # of a layer: a call that computes more gains less than 2 % by being prepared
SHORT_SHAPES = 8  # for which calls are kept prepared

Short = dict[tuple[bool, tuple[int, ...]], ShortForward]  # prepared calls, by training and the shape of x


def keep_short(kept: Short, key: tuple[bool, tuple[int, ...]], made: ShortForward) -> None:
    """Keep a prepared call in the place of the oldest, if there are enough."""
    for oldest in list(kept)[: 1 - SHORT_SHAPES]:  # a list: other threads may keep theirs meanwhile
        kept.pop(oldest, None)
    kept[key] = made


class Inference(Parameterised):
    """Plain calls and streams of a layer, whole and, where they are short, prepared."""

    def __init__(self, *parameters: Any) -> None:
        super().__init__(*parameters)
        self._short: Short = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: nothing that was derived or prepared."""
        return super().__getstate__() | {"_short": {}}

    def __call__(
        self, x: Any, state: tuple[Any, Any] | None = None, *, lengths: Any = None, reset: Any = None
    ) -> tuple[Any, State]:
        """Run the layer for inference: nothing is kept, and no dropout acts.

        Parameters
        ----------
        x
            (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for a single sequence; of the layer's dtype, T at
            least 1. Or a `PackedSequence`.
        state
            (h_0, c_0), (D*L, B, P) and (D*L, B, H), without B for a single sequence; zeros if None.
        lengths
            (B,), integers between 0 and T: rows end after so many steps. Nothing is computed for what follows, y is 0
            there, and the reverse direction starts at each row's end. A row of length 0 hands on its initial state.
        reset
            Boolean, in the shape of x without its last axis; or a pair of that and a state. Where it is true, a new
            sequence begins at that step of that row: before it the state goes to zeros, or to the values given. The
            reverse direction is cut at the same place.

        Returns
        -------
        y
            (T, B, D*P), or (B, T, D*P), or (T, D*P): h of the last layer at each step; D*P is P where the directions
            are merged. A pair if `merge` is `"none"`, a `PackedSequence` if x was one.
        (h_n, c_n)
            The state after each row's last step, shaped as `state`.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type, dtype or shape; the message names it.
        """
        if lengths is None and reset is None and (short := self._prepared(x, state, False)) is not None:
            return short(x, state, self._mapping.epoch)
        return forward(self, x, state, lengths, reset, None)

    def stream(self, batch_size: int = 1) -> Stream:
        """A stream of single steps through this layer's parameters as they are now.

        Parameters
        ----------
        batch_size
            Rows B of each step.

        Raises
        ------
        ValueError
            For a bidirectional or reverse layer: that direction begins at the last step, which a stream has not seen.
        """
        if self.bidirectional or self.reverse:
            name = "bidirectional" if self.bidirectional else "reverse"
            raise ValueError(
                f"stream: {name} must be False, since the reverse direction begins at a last step "
                "that a stream has not seen"
            )
        B = checks.size("batch_size", batch_size)
        return Stream(
            self._variant,
            [self._pack("forward", suffixes[0]) for suffixes in self._suffixes],
            (self.input_size, self.hidden_size, self.output_size, B),
            self.dtype,
            self.spec.zoneout,
        )

    def plan(self, T: int, B: int, training: bool = False, layer: int = 0, threads: int | None = None) -> Plan:
        """How a call is cut into parts and chunks.

        Parameters
        ----------
        T, B
            Steps and rows of the call.
        training
            Whether to plan the backward pass rather than the forward pass.
        layer
            Which layer, 0 the lowest.
        threads
            How many there are to plan for, be they there or not; None: as many as a call may use.

        Returns
        -------
        Plan
            Of that layer; `explain()` tells it in words.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type or out of range; the message names it.
        """
        T, B, training = checks.size("T", T), checks.size("B", B), checks.flag("training", training)
        if checks.size("layer", layer, least=0) >= self.num_layers:
            raise ValueError(f"layer must be less than num_layers = {self.num_layers}, but was {layer}")
        threads = get_num_threads() if threads is None else checks.size("threads", threads)
        D, P = self.directions, self.output_size
        I = self.input_size if layer == 0 else directions.size(self.merge, D, P)
        sizes, whole = (T, B, I, self.hidden_size, D, self.dtype, threads), self._variant.whole
        if training:
            return plan_backward(*sizes, whole)
        even = (not self.batch_first or B == 1) and not self._variant.normed
        return plan_forward(*sizes, even, whole, packing.in_digits(self._variant, I, P)[1])

    def _prepared(self, x: Any, state: Any, training: bool) -> ShortForward | None:
        """The prepared call for arguments as they mostly are, if it is short; None for the long way."""
        if type(x) is not np.ndarray:
            return None
        short = self._short.get((training, x.shape))
        if short is None or short.stale():
            short = self._prepare(training, x.shape)
        return short if short is not None and short.takes(x, state) else None

    def _prepare_step(self, training: bool, shape: tuple[int, ...]) -> ShortForward | None:
        """Prepare calls of one step with an x (B, I) or (I,) and states without an axis of layers, as a cell's."""
        I, H, rows = self.input_size, self.hidden_size, shape[:-1]
        if self._variant.special or len(shape) not in (1, 2) or shape[-1] != I or 0 in shape:
            return None
        state, B = (*rows, H), math.prod(rows)
        told = Shape(shape, state, state, 1, B, I, H, 1, 1, False, False, self.dtype, self._variant, training).settled()
        return ShortForward(told, self) if ShortForward.fits(told) else None

    def _prepare(self, training: bool, shape: tuple[int, ...]) -> ShortForward | None:
        """Prepare calls with an x of a shape, if such calls are short, and the cell has no masks and no projection."""
        I, H, L, D = self.input_size, self.hidden_size, self.num_layers, self.directions
        drawn = training and (self.input_dropout or self.spec.recurrent_dropout or (L > 1 and self.dropout))
        v = self._variant
        if v.projected or v.zoned_c or v.zoned_h or self.reverse or self.merge != "concat" or drawn:
            return None
        if len(shape) not in (2, 3) or shape[-1] != I:
            return None
        unbatched = len(shape) == 2
        first = self.batch_first and not unbatched
        T, B = (shape[0], 1) if unbatched else shape[1::-1] if first else shape[:2]
        if not 0 < 8.0 * H * (I + H) * T * B * D <= SHORT_FLOPS:
            return None
        state = (D * L, H) if unbatched else (D * L, B, H)
        y = (*shape[:-1], D * H)
        told = Shape(shape, y, state, T, B, I, H, L, D, first, first, self.dtype, self._variant, training).settled()
        if not ShortForward.fits(told):
            return None
        found = ShortForward(told, self)
        keep_short(self._short, (training, shape), found)
        return found
