"""Elementary functions on vectors, as ratios: the state update shares its divisions, so tanh and the sigmoid come as
numerator and denominator.

tanh, float32: x P(x^2) / Q(x^2), both of degree 4, minimax on |x| < 9 and clamped at 8.1: within 3.2e-7 of tanh,
relative too, and never above 1. tanh, float64: the same form near 0 (the rational of Cephes, |x| < 0.625), else (1
- e) / (1 + e) with e = exp(-2 |x|): within 3e-16. sigmoid: 1 / (1 + exp(-x)): within 1.5e-7 (float32), 3e-16
(float64); exp(-x) is held below 2^40 (2^300), so that products of three denominators stay finite. A NaN comes
through: every clamp is a comparison that a NaN fails.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.runtime.jit import inline
from fastlstm.simd.emit import I32, call, vector
from fastlstm.simd.isa import target
from fastlstm.simd.vector import copysign, fma, magnitude, splat, where_less

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)
INVERSE_FACTORIALS = tuple(1.0 / math.factorial(k) for k in range(13))
ODD_INVERSES = tuple(2.0 / (2 * k + 1) for k in range(16))
TANH_END = 8.1  # float32: beyond it tanh is 1 to within the stated error
MAGIC = {
    types.float32: 1.5 * 2.0**23,
    types.float64: 1.5 * 2.0**52,
}  # added, it leaves the rounded integer in the low bits
MANTISSA = {types.float32: 23, types.float64: 52}


@intrinsic
def is_single(typingctx, v):
    """Whether v holds float32; a constant of the compiled code."""
    single = v.dtype == types.float32
    return types.boolean(v), lambda context, builder, sig, args: ir.Constant(ir.IntType(1), single)


def _magic(dtype, count):
    return ir.Constant(vector(dtype), [MAGIC[dtype]] * count)


@intrinsic
def round_even(typingctx, t):
    """The nearest integer; |t| below 2^22 (2^51)."""

    def codegen(context, builder, sig, args):
        (value,) = args
        if target().name == "avx512":
            return call(builder, f"llvm.rint.v{value.type.count}f{t.dtype.bitwidth}", value.type, [value])
        magic = _magic(t.dtype, value.type.count)
        return builder.fsub(builder.fadd(value, magic), magic)

    return t(t), codegen


@intrinsic
def scale(typingctx, p, n):
    """p 2^n for integral n; p 2^n must be normal, except on AVX-512, where it may be anything."""

    def codegen(context, builder, sig, args):
        value, power = args
        count, dtype = value.type.count, p.dtype
        if target().name == "avx512":
            suffix, mask = ("ps", 16) if dtype == types.float32 else ("pd", 8)
            everywhere = ir.Constant(ir.IntType(mask), -1)
            return call(
                builder,
                f"llvm.x86.avx512.mask.scalef.{suffix}.512",
                value.type,
                [value, power, value, everywhere, I32(4)],
            )
        integer = ir.IntType(dtype.bitwidth)
        bits = ir.VectorType(integer, count)
        exponent = builder.bitcast(builder.fadd(power, _magic(dtype, count)), bits)
        exponent = builder.shl(exponent, ir.Constant(bits, [MANTISSA[dtype]] * count))
        scaled = builder.bitcast(builder.add(builder.bitcast(value, bits), exponent), value.type)
        return builder.select(builder.fcmp_unordered("uno", power, power), power, scaled)

    return p(p, n), codegen


@inline
def exp(x):
    """exp(x), held below 2^40 (float32) or 2^300 (float64)."""
    single = is_single(x)
    t = x * LOG2_E
    top, bottom = (splat(40.0, x), splat(-126.0, x)) if single else (splat(300.0, x), splat(-1022.0, x))
    t = where_less(top, t, top, t)
    t = where_less(t, bottom, bottom, t)
    n = round_even(t)
    r = t - n
    if single:
        p = fma(r, 0.0013276472, splat(0.009675541, x))
        p = fma(p, r, splat(0.05550713, x))
        p = fma(p, r, splat(0.2402212, x))
        p = fma(p, r, splat(0.69314694, x))
        p = fma(p, r, splat(1.0000001, x))
    else:
        r = r * LN_2
        p = splat(INVERSE_FACTORIALS[12], x)
        for k in range(11, -1, -1):
            p = fma(p, r, splat(INVERSE_FACTORIALS[k], x))
    return scale(p, n)


@inline
def sigmoid_below(x):
    """1 + exp(-x): what the sigmoid is one over."""
    return 1.0 + exp(-x)


@inline
def log1p_unit(x):
    """log(1 + x) for x in [0, 1]: 2 artanh(s) with s = x / (2 + x), by its series in s^2 <= 1/9."""
    s = x / (2.0 + x)
    y = s * s
    if is_single(x):
        p = splat(ODD_INVERSES[6], x)
        for k in range(5, -1, -1):
            p = fma(p, y, splat(ODD_INVERSES[k], x))
    else:
        p = splat(ODD_INVERSES[15], x)
        for k in range(14, -1, -1):
            p = fma(p, y, splat(ODD_INVERSES[k], x))
    return s * p


@inline
def tanh_ratio(x):
    """Numerator and denominator of tanh(x); the denominator lies in [1, 2^14)."""
    if is_single(x):
        end = splat(TANH_END, x)
        x = where_less(end, x, end, x)
        x = where_less(x, -end, -end, x)
        y = x * x
        p = fma(y, 1.3352683e-08, splat(2.0608006e-05, x))
        p = fma(p, y, splat(0.0034955412, x))
        p = fma(p, y, splat(0.13380994, x))
        p = fma(p, y, splat(1.0, x))
        q = fma(y, 7.775847e-07, splat(0.00032855445, x))
        q = fma(q, y, splat(0.025876826, x))
        q = fma(q, y, splat(0.4671431, x))
        q = fma(q, y, splat(1.0, x))
        return x * p, q
    size = magnitude(x)
    e = exp(-2.0 * size)
    y = x * x
    p = fma(y, -9.64399179425052238628e-1, splat(-9.92877231001918586564e1, x))
    p = fma(p, y, splat(-1.61468768441708447952e3, x))
    q = y + 1.12811678491632931402e2
    q = fma(q, y, splat(2.23548839060100448583e3, x))
    q = fma(q, y, splat(4.84406305325125486048e3, x))
    near = splat(0.625, x)
    return where_less(size, near, x * fma(y, p, q), copysign(1.0 - e, x)), where_less(size, near, q, 1.0 + e)
