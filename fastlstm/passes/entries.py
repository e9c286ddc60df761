"""The workers that Python calls: each makes, for one variant, a function of a part and a frame. Numba caches them
by their place in this file.
"""

from __future__ import annotations

from typing import NamedTuple

from fastlstm.kernels.gemm import SAME
from fastlstm.kernels.pack import pack_bias, pack_columns, pack_gates
from fastlstm.passes import backward as _backward
from fastlstm.passes import forward as _forward
from fastlstm.passes import step as _step
from fastlstm.passes.frames import Forward
from fastlstm.runtime.jit import read
from fastlstm.runtime.variant import Variant
from fastlstm.simd.digest import absorb
from fastlstm.simd.vector import pointer

run_forward, run_backward = _forward.forward, _backward.backward
run_step_forward, run_step_backward = _step.step_forward, _step.step_backward
FORWARD_BYTES = 8 * len(Forward._fields)


class PackForward(NamedTuple):
    """Arguments of packing one direction of one layer for the forward pass."""

    I: int
    H: int
    P: int
    w_ih: int  # (4H, I)
    w_hh: int  # (4H, P)
    b_ih: int  # (4H,)
    b_hh: int  # (4H,)
    weights: int  # [panel][I + P][gate][lane]
    bias: int  # zeros, [panel][gate][lane]


class PackColumns(NamedTuple):
    """Arguments of packing a matrix (K, N) by columns."""

    K: int
    N: int
    w: int  # (K, N)
    packed: int


def forward(variant: Variant):
    def worker(part, frame):
        run_forward(variant, part, frame)

    return worker


def backward(variant: Variant):
    def worker(part, frame):
        run_backward(variant, part, frame)

    return worker


def step_forward(variant: Variant):
    def worker(part, frame):
        run_step_forward(variant, frame)

    return worker


def step_backward(variant: Variant):
    def worker(part, frame):
        run_step_backward(variant, frame)

    return worker


def pack_forward(variant: Variant):
    def worker(part, frame):
        f = read(frame, PackForward)
        weights = pointer(f.weights, variant)
        pack_gates(pointer(f.w_ih, variant), f.H, f.I, weights, SAME, f.I + f.P)
        pack_gates(pointer(f.w_hh, variant), f.H, f.P, weights, f.I, f.I + f.P)
        pack_bias(pointer(f.b_ih, variant), pointer(f.b_hh, variant), f.H, pointer(f.bias, variant))

    return worker


def pack_backward(variant: Variant):
    def worker(part, frame):
        f = read(frame, PackColumns)
        pack_columns(pointer(f.w, variant), f.K, f.N, f.N, pointer(f.packed, variant))

    return worker


def idle(variant: Variant):
    def worker(part, frame):
        pass

    return worker


class Digest(NamedTuple):
    """Arguments of a digest of four arrays; an array of no bytes is left out."""

    out: int  # `simd.digest.words()` words of 32 bits
    first: int
    first_bytes: int
    second: int
    second_bytes: int
    third: int
    third_bytes: int
    fourth: int
    fourth_bytes: int


def digest(variant: Variant):
    def worker(part, frame):
        f = read(frame, Digest)
        absorb(f.first, f.first_bytes, f.out)
        absorb(f.second, f.second_bytes, f.out)
        absorb(f.third, f.third_bytes, f.out)
        absorb(f.fourth, f.fourth_bytes, f.out)

    return worker


def forward_layers(variant: Variant):
    """Layers one after another on one thread; the part is their number, the frames follow one another."""

    def worker(part, frame):
        for layer in range(part):
            run_forward(variant, 0, frame + layer * FORWARD_BYTES)

    return worker
