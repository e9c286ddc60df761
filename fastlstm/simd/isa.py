"""What the compiler targets: vector width, registers, and the tile that they carry.

The facts come from Numba's *target*, not from the processor, so that `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES`
narrow them: a wide machine tests the kernels of a narrow one.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from fastlstm.runtime.machine import processor
from fastlstm.runtime.permission import may_use_tiles

PANEL = 4  # vectors of one k side by side in a packed panel: the four gates of one vector of units
# Steps of k per block: a block of a panel (24 KiB on AVX-512) stays in L1 while all rows pass over it. Fewer steps
# cost more in loading and storing C; more fall out of L1.
DEPTH = 96
# Rows of x and h to one product for dW, which is loaded and stored once for so many: more of dG fall out of L2 before
# all panels have read it. In registers and in pieces; in digits, or twice as many. Columns of [x, h] to one product.
PRODUCT_ROWS, UNIT_PRODUCT_ROWS, PRODUCT_COLUMNS = 128, 256, 512
# The matrix unit (`simd.amx`): rows of a tile of A and C, columns of one of B and C; steps of k of one instruction;
# bfloat16 that make a float32; bytes of a tile, and of its rows.
SIDE, STEP, PIECES, TILE, TILE_ROW = 16, 32, 3, 1024, 64
STRETCH, DIGITS = 64, 3  # likewise of bytes (`simd.digits`): steps of k of one instruction, bytes that make a float32
# Bytes of digits that stay in L2 while others pass: of rows while all panels do, of weights while blocks of rows do.
DIGITS_IN_L2 = 1 << 20
# Bytes of a tape, or of y, from which on it is written past the caches: these would read what was there, and drop it
# again.
PAST_CACHES = 1 << 25
STREAMS = 8  # registers of running hashes that a digest keeps


class Target(NamedTuple):
    """The instruction set that kernels are compiled for."""

    name: str  # "avx512", "avx2", "sse" or "neon"; "generic" where none is known
    bits: int  # width of a vector register
    registers: int  # number of vector registers
    cpu: str  # LLVM's name of the processor

    def lanes(self, dtype) -> int:
        """Elements of `dtype` in one vector register."""
        return self.bits // (8 * np.dtype(dtype).itemsize)

    @property
    def tile_rows(self) -> int:
        """Rows of the widest tile: accumulators for rows x 4 vectors, a vector of B and a scalar of A for each row fit
        in the registers; without a fused multiply-add also the product.
        """
        if self.registers >= 32:
            return 6
        return 3 if self.name == "avx2" else 2

    @property
    def block_rows(self) -> int:
        """Rows that pass over a block of weights before the next: their part of C and of A stay in L1 and L2."""
        return 16 * self.tile_rows

    @property
    def whole_rows(self) -> int:
        """Rows of a block that takes all panels before its cells: its z stays in L2."""
        return 8 * self.tile_rows

    @property
    def digest_words(self) -> int:
        """32-bit words of a digest: every lane's hash, and one of the words that fill no whole group."""
        return STREAMS * self.bits // 32 + 1


def classify(triple: str, cpu: str, features: str) -> Target:
    """The target that an LLVM triple, processor name and feature string describe."""
    has = set(features.split(","))
    if triple.startswith(("aarch64", "arm64")):
        return Target("neon", 128, 32, cpu)
    if not triple.startswith(("x86_64", "amd64", "i686")):
        return Target("generic", 128, 16, cpu)
    if {"+avx512f", "+avx512dq", "+avx512vl", "+avx512bw"} <= has:
        return Target("avx512", 512, 32, cpu)
    if {"+avx2", "+fma"} <= has:
        return Target("avx2", 256, 16, cpu)
    return Target("sse", 128, 16, cpu)


@cache
def multiplies_bytes() -> bool:
    """Whether the target adds up products of bytes in one instruction (AVX-512's VNNI)."""
    return target().name == "avx512" and "+avx512vnni" in processor()[2].split(",")


@cache
def multiplies_tiles() -> bool:
    """Whether the target multiplies tiles of bfloat16 and of bytes (AMX), and this process may use them."""
    has = {"+amx-tile", "+amx-bf16", "+amx-int8", "+avx512vnni"} <= set(processor()[2].split(","))
    return target().name == "avx512" and has and may_use_tiles()


@cache
def target() -> Target:
    """The target of this process."""
    return classify(*processor())
