"""How kernels are compiled: two decorators, and the variant as a compile-time constant.

A *worker* is a C function `void worker(part, frame)`: it computes one part of a call whose arguments lie in a frame
of int64 words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_constant
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    models,
    overload,
    register_model,
    typeof_impl,
)

from fastlstm.runtime.linking import PART
from fastlstm.runtime.variant import Function, Variant


def _compiled(**options: Any) -> Callable[[Callable], Any]:
    def decorate(function: Callable) -> Any:
        dispatcher = numba.njit(**PART, **options)(function)
        template = dispatcher.get_call_template

        def of_any_number(args: Sequence[types.Type], kws: dict[str, types.Type]) -> Any:
            return template([types.unliteral(a) for a in args], {name: types.unliteral(a) for name, a in kws.items()})

        dispatcher.get_call_template = of_any_number  # Numba's would compile it anew for every constant in a call
        return dispatcher

    return decorate


inline = _compiled(forceinline=True)  # disappears into its caller: arithmetic on vectors
kernel = _compiled()  # a function of its own

WORKER = types.void(types.intp, types.intp)
BUILT_IN = types.intp(types.intp, types.intp, types.intp)  # what Python calls: `simd.objects`


class ConstantType(types.Type):
    """The Numba type of one Variant, or Function: the value is in the type, so that every attribute is a constant of
    the compiled code.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        if isinstance(value, Variant):
            self.dtype, self.stored = getattr(types, value.dtype), getattr(types, value.stored)
        super().__init__(name=f"{type(value).__name__}{tuple(value)}")


register_model(ConstantType)(models.OpaqueModel)


@typeof_impl.register(Function)
@typeof_impl.register(Variant)
def typeof_constant(value, c):
    return ConstantType(value)


@infer_getattr
class ConstantAttributes(AttributeTemplate):
    key = ConstantType

    def generic_resolve(self, ty, attr):
        value = getattr(ty.value, attr, None)
        if isinstance(value, Function):
            return ConstantType(value)
        return {bool: types.boolean, float: types.float64}.get(type(value))


@lower_getattr_generic(ConstantType)
def constant_getattr(context, builder, ty, value, attr):
    found = getattr(ty.value, attr)
    if isinstance(found, Function):
        return context.get_dummy_value()
    return ir.Constant(ir.IntType(1) if isinstance(found, bool) else ir.DoubleType(), found)


@lower_constant(ConstantType)
def constant_value(context, builder, ty, value):
    return context.get_dummy_value()


def choose(function: Callable, forceinline: bool = True) -> Callable:
    """Compile, in place of `function(v, ...)`, the Python function that the decorated chooser returns for the value of
    v, and nothing else.
    """

    def decorate(chooser):
        def typed(v, *rest):
            return chooser(v.value)

        options = PART | {"forceinline": forceinline}
        overload(function, strict=False, jit_options=options)(typed)
        return chooser

    return decorate


class FrameType(types.Type):
    """The Numba type of the address of a frame: int64 words, by the names of a NamedTuple's fields. A word is loaded
    where it is used: to hand on a tuple of a hundred took Numba as long as to compile what was computed of them.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        super().__init__(name=f"Frame{names}")


@register_model(FrameType)
class FrameModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.IntType(64).as_pointer())


@infer_getattr
class FrameWords(AttributeTemplate):
    key = FrameType

    def generic_resolve(self, ty, attr):
        return types.int64 if attr in ty.names else None


@lower_getattr_generic(FrameType)
def frame_word(context, builder, ty, value, attr):
    loaded = builder.load(cgutils.gep_inbounds(builder, value, ty.names.index(attr)))
    loaded.set_metadata("invariant.load", builder.module.add_metadata([]))  # nobody writes a frame during a call
    return loaded


@intrinsic
def read(typingctx, address, frame):
    """The frame at an address, whose words are the fields of the NamedTuple `frame`."""
    result = FrameType(frame.instance_class._fields)

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.intp, frame), codegen


@intrinsic
def word(typingctx, address, index):
    """Number `index` of the int64 words at an address."""

    def codegen(context, builder, sig, args):
        words = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(words, [args[1]], source_etype=ir.IntType(64)))

    return types.int64(types.intp, types.intp), codegen


@intrinsic
def set_word(typingctx, address, value):
    """Write an int64 word at an address."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.none(types.intp, types.int64), codegen


@intrinsic
def flag(typingctx, address, index):
    """Whether byte number `index` at an address is other than 0."""

    def codegen(context, builder, sig, args):
        flags = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        value = builder.load(builder.gep(flags, [args[1]], source_etype=ir.IntType(8)))
        return builder.icmp_unsigned("!=", value, ir.Constant(ir.IntType(8), 0))

    return types.boolean(types.intp, types.intp), codegen
