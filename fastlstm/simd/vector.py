"""Two Numba types, `Pointer` and `Vector`, so that kernels read as arithmetic on whole registers.

In a kernel, `p` is a pointer to elements, `p + n` is n elements on, `load(p)` a vector, `a * b + c` works on all
lanes, `store(p, v)` writes; `load(p, n)` and `store(p, v, n)` touch the first n lanes alone. A vector has as many
lanes as the target's register holds. No operation contracts, reorders or assumes away a NaN: what is written is
what is computed.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from fastlstm.simd.emit import (
    BYTE,
    I32,
    I64,
    advance,
    call,
    element,
    first_lanes,
    fma_value,
    overloaded,
    prefetch_value,
    splat_value,
    typed,
    vector,
    width,
)


class Pointer(types.Type):
    """Address of elements of one dtype."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(name=f"Pointer({dtype})")


class Vector(types.Type):
    """One register of elements of one dtype."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(Pointer)
class PointerModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, BYTE.as_pointer())


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, vector(fe_type.dtype))


# --- pointers -------------------------------------------------------------------------------------------------------


@intrinsic
def pointer(typingctx, address, like):
    """The pointer to elements of the dtype of `like` (a dtype, a pointer or a vector) at an integer address."""
    result = Pointer(getattr(like, "dtype", like))

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], BYTE.as_pointer())

    return result(types.intp, like), codegen


@intrinsic
def address(typingctx, p):
    """The address that a pointer holds."""
    return types.intp(p), lambda context, builder, sig, args: builder.ptrtoint(args[0], I64)


@infer_global(operator.add)
class PointerAdd(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 2 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0], args[0], types.intp)
        return None


@lower_builtin(operator.add, Pointer, types.intp)
def pointer_add(context, builder, sig, args):
    size = sig.return_type.dtype.bitwidth // 8
    return advance(builder, args[0], builder.mul(args[1], args[1].type(size)))


@infer_global(operator.sub)
class PointerSub(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 2 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0], args[0], types.intp)
        return None


@lower_builtin(operator.sub, Pointer, types.intp)
def pointer_sub(context, builder, sig, args):
    return pointer_add(context, builder, sig, [args[0], builder.neg(args[1])])


@infer_global(operator.getitem)
class PointerGet(AbstractTemplate):
    def generic(self, args, kws):
        if isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0].dtype, args[0], types.intp)
        return None


@lower_builtin(operator.getitem, Pointer, types.intp)
def pointer_get(context, builder, sig, args):
    return builder.load(
        typed(
            builder, pointer_add(context, builder, sig.args[0](sig.args[0], types.intp), args), element(sig.return_type)
        )
    )


@infer_global(operator.setitem)
class PointerSet(AbstractTemplate):
    def generic(self, args, kws):
        if isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(types.none, args[0], types.intp, args[0].dtype)
        return None


@lower_builtin(operator.setitem, Pointer, types.intp, types.Float)
def pointer_set(context, builder, sig, args):
    where = pointer_add(context, builder, sig.args[0](sig.args[0], types.intp), args[:2])
    builder.store(args[2], typed(builder, where, element(sig.args[2])))
    return context.get_dummy_value()


# --- memory <-> registers -------------------------------------------------------------------------------------------


@intrinsic
def load(typingctx, p, n=None):
    """The vector at p; with n, its first n lanes, the others zero."""
    vec = Vector(p.dtype)
    if not isinstance(n, types.Integer):

        def codegen(context, builder, sig, args):
            value = builder.load(typed(builder, args[0], vector(p.dtype)))
            value.align = p.dtype.bitwidth // 8
            return value

        return vec(p, types.none), codegen

    def codegen_n(context, builder, sig, args):
        ty = vector(p.dtype)
        mask = first_lanes(builder, args[1], ty.count)
        address = typed(builder, args[0], ty)
        return call(
            builder,
            overloaded("llvm.masked.load", p.dtype) + ".p0",
            ty,
            [address, I32(p.dtype.bitwidth // 8), mask, ir.Constant(ty, None)],
        )

    return vec(p, types.intp), codegen_n


@intrinsic
def store(typingctx, p, v, n=None):
    """Write v at p; with n, its first n lanes."""
    if not isinstance(n, types.Integer):

        def codegen(context, builder, sig, args):
            builder.store(args[1], typed(builder, args[0], vector(p.dtype))).align = p.dtype.bitwidth // 8
            return context.get_dummy_value()

        return types.none(p, v, types.none), codegen

    def codegen_n(context, builder, sig, args):
        ty = vector(p.dtype)
        mask = first_lanes(builder, args[2], ty.count)
        address = typed(builder, args[0], ty)
        call(
            builder,
            overloaded("llvm.masked.store", p.dtype) + ".p0",
            ir.VoidType(),
            [args[1], address, I32(p.dtype.bitwidth // 8), mask],
        )
        return context.get_dummy_value()

    return types.none(p, v, types.intp), codegen_n


@intrinsic
def stream(typingctx, p, v):
    """Write v at p, which is aligned as a whole vector, past the caches; `atomic.fence` lets others see it."""

    def codegen(context, builder, sig, args):
        ty = vector(p.dtype)
        stored = builder.store(args[1], typed(builder, args[0], ty))
        stored.align = ty.count * p.dtype.bitwidth // 8
        stored.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
        return context.get_dummy_value()

    return types.none(p, v), codegen


@intrinsic
def prefetch(typingctx, p):
    """Ask for the line of a pointer, of a place that need not exist, in L2."""

    def codegen(context, builder, sig, args):
        prefetch_value(builder, args[0])
        return context.get_dummy_value()

    return types.none(p), codegen


@intrinsic
def splat(typingctx, scalar, like):
    """The vector whose lanes all hold a scalar, cast to the dtype of `like` (a pointer or a vector)."""
    vec = Vector(like.dtype)

    def codegen(context, builder, sig, args):
        value = context.cast(builder, args[0], sig.args[0], like.dtype)
        return splat_value(builder, value, width(like.dtype))

    return vec(scalar, like), codegen


@intrinsic
def lanes(typingctx, like):
    """Elements in one vector of the dtype of `like`; a constant of the compiled code."""
    count = width(like.dtype)
    return types.intp(like), lambda context, builder, sig, args: I64(count)


# --- arithmetic -----------------------------------------------------------------------------------------------------


def _binary(op, emit) -> None:
    """Give `op` to (vector, vector), (vector, number) and (number, vector)."""

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            vectors = [a for a in args if isinstance(a, Vector)]
            if len(args) == 2 and vectors and all(isinstance(a, Vector | types.Number) for a in args):
                return signature(vectors[0], *[a if isinstance(a, Vector) else vectors[0].dtype for a in args])
            return None

    Template.__name__ = f"Vector_{op.__name__}"
    infer_global(op)(Template)

    def lower(context, builder, sig, args):
        count = width(sig.return_type.dtype)
        a, b = (
            v if isinstance(t, Vector) else splat_value(builder, v, count) for v, t in zip(args, sig.args, strict=True)
        )
        return getattr(builder, emit)(a, b)

    for types_ in ((Vector, Vector), (Vector, types.Float), (types.Float, Vector)):
        lower_builtin(op, *types_)(lower)


_binary(operator.add, "fadd")
_binary(operator.sub, "fsub")
_binary(operator.mul, "fmul")
_binary(operator.truediv, "fdiv")


@infer_global(operator.neg)
class VectorNeg(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def vector_neg(context, builder, sig, args):
    return builder.fneg(args[0])


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, fused where the target can; a number in place of a vector counts for all lanes."""
    vec = next(t for t in (a, b, c) if isinstance(t, Vector))

    def codegen(context, builder, sig, args):
        values = [
            v
            if isinstance(t, Vector)
            else splat_value(builder, context.cast(builder, v, t, vec.dtype), width(vec.dtype))
            for v, t in zip(args, sig.args, strict=True)
        ]
        return fma_value(builder, vec.dtype, *values)

    return vec(a, b, c), codegen


@intrinsic
def where_less(typingctx, a, b, x, y):
    """x in the lanes where a < b, y elsewhere; a NaN in a or b gives y."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return x(a, b, x, y), codegen


@intrinsic
def where_at_most(typingctx, a, b, x, y):
    """x in the lanes where a <= b, y elsewhere; a NaN in a or b gives y."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<=", args[0], args[1]), args[2], args[3])

    return x(a, b, x, y), codegen


@intrinsic
def magnitude(typingctx, a):
    """|a|."""

    def codegen(context, builder, sig, args):
        return call(builder, overloaded("llvm.fabs", a.dtype), args[0].type, [args[0]])

    return a(a), codegen


@intrinsic
def copysign(typingctx, a, b):
    """|a| with the sign of b."""

    def codegen(context, builder, sig, args):
        return call(builder, overloaded("llvm.copysign", a.dtype), args[0].type, list(args))

    return a(a, b), codegen


@intrinsic
def leading(typingctx, a, n):
    """The first n lanes of a, the others zero."""

    def codegen(context, builder, sig, args):
        ty = args[0].type
        return builder.select(first_lanes(builder, args[1], ty.count), args[0], ir.Constant(ty, None))

    return a(a, types.intp), codegen


@intrinsic
def root(typingctx, a):
    """The square root of a number of 64 bits, without the library function that Numba would call."""

    def codegen(context, builder, sig, args):
        return call(builder, "llvm.sqrt.f64", ir.DoubleType(), args)

    return types.float64(types.float64), codegen


@intrinsic
def total(typingctx, a):
    """The sum of all lanes, halves added to halves."""

    def codegen(context, builder, sig, args):
        value, count = args[0], args[0].type.count
        while count > 1:
            count //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            parts = [
                builder.shuffle_vector(
                    value, undefined, ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
                )
                for start in (0, count)
            ]
            value = builder.fadd(*parts)
        return builder.extract_element(value, I32(0))

    return a.dtype(a), codegen


@lower_cast(types.Float, Vector)
def float_to_vector(context, builder, fromty, toty, value):
    return splat_value(builder, context.cast(builder, value, fromty, toty.dtype), width(toty.dtype))
