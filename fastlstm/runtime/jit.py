"""How kernels are compiled: two decorators, and the variant as a compile-time constant.

A *worker* is a C function `void worker(part, frame)`: it computes one part of a call whose arguments lie in a frame
of int64 words.
"""

from __future__ import annotations

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_constant
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, models, register_model, typeof_impl

from fastlstm.runtime.linking import PART
from fastlstm.runtime.variant import Variant

inline = numba.njit(forceinline=True, **PART)  # disappears into its caller: arithmetic on vectors
kernel = numba.njit(**PART)  # a function of its own

WORKER = types.void(types.intp, types.intp)


class VariantType(types.Type):
    """The Numba type of one Variant: the value is in the type, so every attribute is a constant of the compiled
    code.
    """

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.dtype = getattr(types, variant.dtype)
        super().__init__(name=f"Variant{tuple(variant)}")


register_model(VariantType)(models.OpaqueModel)


@typeof_impl.register(Variant)
def typeof_variant(value, c):
    return VariantType(value)


@infer_getattr
class VariantAttributes(AttributeTemplate):
    key = VariantType

    def generic_resolve(self, ty, attr):
        return types.boolean if isinstance(getattr(ty.variant, attr, None), bool) else None


@lower_getattr_generic(VariantType)
def variant_getattr(context, builder, ty, value, attr):
    return ir.Constant(ir.IntType(1), getattr(ty.variant, attr))


@lower_constant(VariantType)
def variant_constant(context, builder, ty, value):
    return context.get_dummy_value()


@intrinsic
def read(typingctx, address, frame):
    """The NamedTuple of int64 words, of the class `frame`, at an address."""
    cls = frame.instance_class
    result = types.NamedUniTuple(types.int64, len(cls._fields), cls)

    def codegen(context, builder, sig, args):
        words = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        values = [builder.load(cgutils.gep_inbounds(builder, words, i)) for i in range(len(cls._fields))]
        return context.make_tuple(builder, result, values)

    return result(types.intp, frame), codegen
