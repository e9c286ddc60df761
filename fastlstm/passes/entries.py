"""The workers: each makes, for one variant, a function of a part and a frame. And the functions that Python calls: one
that calls a worker, and one about arrays.
"""

from __future__ import annotations

from fastlstm.kernels.digits import pack_columns as pack_columns_in_digits
from fastlstm.kernels.gates import open_gates as _open_gates
from fastlstm.kernels.gemm import SAME
from fastlstm.kernels.pack import pack_bias, pack_columns, pack_gates
from fastlstm.passes import backward as _backward
from fastlstm.passes import forward as _forward
from fastlstm.passes import step as _step
from fastlstm.passes.digits import pack as pack_gates_in_digits
from fastlstm.passes.frames import FORWARD_BYTES, Digest, OpenGates, PackColumns, PackDigits, PackForward
from fastlstm.runtime.jit import read
from fastlstm.runtime.variant import Variant
from fastlstm.simd.atomic import flush_denormals, restore_mode
from fastlstm.simd.digest import absorb
from fastlstm.simd.objects import alike as _alike
from fastlstm.simd.objects import call_worker
from fastlstm.simd.vector import pointer

run_forward, run_backward = _forward.forward, _backward.backward
run_step_forward, run_step_backward = _step.step_forward, _step.step_backward


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
        pack_gates_in_digits(variant, f)
        pack_bias(pointer(f.b_ih, variant), pointer(f.b_hh, variant), f.H, pointer(f.bias, variant))

    return worker


def pack_backward(variant: Variant):
    def worker(part, frame):
        f = read(frame, PackColumns)
        pack_columns(pointer(f.w, variant), f.K, f.N, f.N, pointer(f.packed, variant))

    return worker


def pack_digits(variant: Variant):
    def worker(part, frame):
        f = read(frame, PackDigits)
        mode = flush_denormals()
        pack_columns_in_digits(pointer(f.packed, variant), f.K, f.N, f.digits, f.scratch)
        restore_mode(mode)

    return worker


def open_gates(variant: Variant):
    def worker(part, frame):
        f = read(frame, OpenGates)
        _open_gates(variant, f.N, f.H, pointer(f.gates, variant))

    return worker


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


def call(variant: Variant):
    def built_in(self, arguments, count):
        return call_worker(self, arguments, count)

    return built_in


def alike(variant: Variant):
    def built_in(self, arguments, count):
        return _alike(arguments, count)

    return built_in
