"""Python's objects, and NumPy's arrays, as compiled code sees them; and the functions that Python calls it by.

ctypes takes longer over a call than a small step computes. A built-in function is a C function of an object of its own,
an array of arguments, and their number: what follows is one that calls workers, and one that looks at arrays. They hold
the GIL, but while a worker runs, and keep no reference to what they are given.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.runtime.jit import inline, kernel, set_word, word
from fastlstm.runtime.memory import DATA, DIMENSIONS, DTYPE, FLAGS, NDIM, PLAIN, TYPE
from fastlstm.simd.emit import I32, I64, call

ANY = ir.PointerType(ir.IntType(8))


@intrinsic
def number(typingctx, an_object):
    """An integer object's value; -1, with an error set, of anything else."""

    def codegen(context, builder, sig, args):
        return call(builder, "PyLong_AsSsize_t", I64, args)

    return types.intp(types.intp), codegen


@intrinsic
def an_object(typingctx, value):
    """A new reference to an integer object."""

    def codegen(context, builder, sig, args):
        return call(builder, "PyLong_FromSsize_t", I64, args)

    return types.intp(types.intp), codegen


@intrinsic
def failed(typingctx):
    """Whether an error is set."""

    def codegen(context, builder, sig, args):
        return builder.icmp_unsigned("!=", call(builder, "PyErr_Occurred", I64, []), I64(0))

    return types.boolean(), codegen


@intrinsic
def run(typingctx, worker, part, frame):
    """Call the worker at an address, while others may have the GIL."""

    def codegen(context, builder, sig, args):
        signature = ir.FunctionType(ir.VoidType(), [I64, I64])
        thread = call(builder, "PyEval_SaveThread", I64, [])
        builder.call(builder.inttoptr(args[0], signature.as_pointer()), args[1:])
        call(builder, "PyEval_RestoreThread", ir.VoidType(), [thread])
        return context.get_dummy_value()

    return types.none(types.intp, types.intp, types.intp), codegen


@intrinsic
def half_word(typingctx, address):
    """The int32 at an address."""

    def codegen(context, builder, sig, args):
        return builder.sext(builder.load(builder.inttoptr(args[0], I32.as_pointer())), I64)

    return types.int64(types.intp), codegen


@inline
def of_type(an_object):
    """The type of an object."""
    return word(an_object + TYPE, 0)


@kernel
def call_worker(self, arguments, count):
    """Of (part, frame), or (part, frame, byte of the frame from which on to write, what ...): write into the frame, of
    arrays the address and of integers the value, then call the worker whose address `self` holds.
    """
    integer = of_type(self)
    part, frame = number(word(arguments, 0)), number(word(arguments, 1))
    to = frame + (number(word(arguments, 2)) if count > 2 else 0)
    if failed():
        return 0
    for k in range(3, count):
        what = word(arguments, k)
        set_word(to + 8 * (k - 3), number(what) if of_type(what) == integer else word(what + DATA, 0))
    if failed():
        return 0
    run(number(self), part, frame)
    return an_object(0)


@kernel
def alike(arguments, count):
    """1 if all arguments but the first are arrays with its dtype and shape, that a pass can read as they lie."""
    like = word(arguments, 0)
    kind, dtype, axes, shape = of_type(like), word(like + DTYPE, 0), half_word(like + NDIM), word(like + DIMENSIONS, 0)
    for k in range(1, count):
        other = word(arguments, k)
        if of_type(other) != kind or word(other + DTYPE, 0) != dtype or half_word(other + NDIM) != axes:
            return an_object(0)
        if half_word(other + FLAGS) & PLAIN != PLAIN:
            return an_object(0)
        for n in range(axes):
            if word(word(other + DIMENSIONS, 0), n) != word(shape, n):
                return an_object(0)
    return an_object(1)
