"""What a target is taken for, by table, and that this process's target is one that holds together."""

from __future__ import annotations

import pytest

from fastlstm.simd.isa import classify, target

AVX512 = "+avx512f,+avx512dq,+avx512vl,+avx512bw,+avx2,+fma"
TARGETS = [
    ("x86_64-unknown-linux-gnu", AVX512, "avx512", 512, 32, 16, 8, 6),
    ("x86_64-unknown-linux-gnu", AVX512.replace("+avx512bw", "-avx512bw"), "avx2", 256, 16, 8, 4, 3),
    ("x86_64-unknown-linux-gnu", "+avx512f,+avx2,+fma", "avx2", 256, 16, 8, 4, 3),
    ("x86_64-apple-darwin", "+avx2,+fma,+avx,+sse4.2", "avx2", 256, 16, 8, 4, 3),
    ("amd64-unknown-freebsd", "+fma,+avx2", "avx2", 256, 16, 8, 4, 3),
    ("x86_64-pc-windows-msvc", "+avx2,-fma", "sse", 128, 16, 4, 2, 2),
    ("x86_64-unknown-linux-gnu", "+avx,+sse4.2", "sse", 128, 16, 4, 2, 2),
    ("x86_64-unknown-linux-gnu", "", "sse", 128, 16, 4, 2, 2),
    ("aarch64-unknown-linux-gnu", "+neon", "neon", 128, 32, 4, 2, 6),
    ("arm64-apple-darwin23.0.0", "", "neon", 128, 32, 4, 2, 6),
    ("powerpc64le-unknown-linux-gnu", "+altivec", "generic", 128, 16, 4, 2, 2),
    ("riscv64-unknown-linux-gnu", "", "generic", 128, 16, 4, 2, 2),
]


@pytest.mark.parametrize(("triple", "features", "name", "bits", "registers", "singles", "doubles", "rows"), TARGETS)
def test_classify(
    triple: str, features: str, name: str, bits: int, registers: int, singles: int, doubles: int, rows: int
) -> None:
    found = classify(triple, "some-cpu", features)
    assert (found.name, found.bits, found.registers, found.cpu) == (name, bits, registers, "some-cpu")
    assert (found.lanes("float32"), found.lanes("float64"), found.tile_rows) == (singles, doubles, rows)


def test_this_process() -> None:
    assert target() is target()
    assert target().name in {row[2] for row in TARGETS}
    # Accumulators of the widest tile, and one vector of B and one broadcast beside them.
    assert 4 * target().tile_rows + 2 <= target().registers
