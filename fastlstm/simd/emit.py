"""What intrinsics write LLVM with: its types, addresses, and the instructions that several of them need.

All but `width` and `has_fma` take llvmlite's builder and values, and no kernel sees them.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

from fastlstm.simd.isa import target

BYTE = ir.IntType(8)
I32 = ir.IntType(32)
I64 = ir.IntType(64)


def width(dtype: types.Type) -> int:
    """Lanes of a vector of a Numba dtype."""
    return target().bits // dtype.bitwidth


def element(dtype: types.Type) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def vector(dtype: types.Type) -> ir.VectorType:
    return ir.VectorType(element(dtype), width(dtype))


def overloaded(name: str, dtype: types.Type) -> str:
    """The name of an LLVM intrinsic for our vectors; llvmlite's own `declare_intrinsic` refuses vector types."""
    return f"{name}.v{width(dtype)}f{dtype.bitwidth}"


def call(builder, name: str, result: ir.Type, args):
    """Call an LLVM intrinsic, or a C function, by name."""
    fnty = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, fnty, name), args)


def splat_value(builder, scalar, lanes: int):
    vec = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vec, ir.Undefined)
    one = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def typed(builder, address, ty: ir.Type):
    return builder.bitcast(address, ty.as_pointer())


def advance(builder, address, nbytes):
    return builder.gep(address, [nbytes], source_etype=BYTE)


def prefetch_value(builder, address) -> None:
    """Ask for the line of an address in L2."""
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [address, I32(0), I32(2), I32(1)])


def first_lanes(builder, n, lanes: int):
    """The mask of the first n lanes."""
    i64 = n.type
    iota = ir.Constant(ir.VectorType(i64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", iota, splat_value(builder, n, lanes))


def has_fma() -> bool:
    """Whether the target multiplies and adds in one instruction; without one, LLVM would call a library function
    for each lane.
    """
    return target().name in ("avx512", "avx2", "neon")


def fma_value(builder, dtype, a, b, c):
    """a * b + c, fused where the target can."""
    if has_fma():
        return call(builder, overloaded("llvm.fma", dtype), a.type, [a, b, c])
    return builder.fadd(builder.fmul(a, b), c)


def call_by_shape(builder, rows, vectors, functions: dict[tuple[int, int], ir.Function], arguments) -> None:
    """Call the function of a tile's rows and vectors, which are known when the code runs; of others none."""
    end = builder.append_basic_block("shape.end")
    switch = builder.switch(builder.add(builder.mul(rows, I64(64)), vectors), end)
    for (r, v), function in functions.items():
        block = builder.append_basic_block(f"shape.{r}x{v}")
        switch.add_case(I64(64 * r + v), block)
        with builder.goto_block(block):
            builder.call(function, arguments)
            builder.branch(end)
    builder.position_at_end(end)
