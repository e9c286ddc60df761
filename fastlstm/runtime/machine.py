"""The processor that kernels are compiled for, and machine code in this process.

LLVM alone, without Numba: where every kernel that a call needs is kept on disk, Numba is never imported, which takes
longer than all else that a first result waits for.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llvmlite import binding

_loading = threading.Lock()
LOCKS = (_loading,)


class Processor(NamedTuple):
    """What LLVM compiles for."""

    triple: str
    cpu: str
    features: str


def _settings() -> tuple[str | None, str | None, bool]:
    """The processor and features that Numba is told to use, None for those of this machine, and whether to use AVX."""
    if config := sys.modules.get("numba.core.config"):
        return config.CPU_NAME, config.CPU_FEATURES, bool(config.ENABLE_AVX)
    cpu = os.environ.get("NUMBA_CPU_NAME")
    features = os.environ.get("NUMBA_CPU_FEATURES", "" if cpu == "generic" else None)
    return cpu, features, os.environ.get("NUMBA_ENABLE_AVX") != "0"


@cache
def processor() -> Processor:
    """The processor that Numba compiles for; `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` may narrow it."""
    from llvmlite import binding

    cpu, features, avx = _settings()
    if features is None:
        try:
            has = binding.get_host_cpu_features()
        except RuntimeError:  # not known for this kind of processor
            features = ""
        else:
            features = type(has)({k: on and (avx or not k.startswith("avx")) for k, on in has.items()}).flatten()
    return Processor(binding.get_process_triple(), cpu or binding.get_host_cpu_name(), features)


@cache
def _engine() -> binding.ExecutionEngine:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple, cpu, features = processor()
    target = binding.Target.from_triple(triple)
    options = {"reloc": "static"} if triple.startswith(("x86", "amd64")) else {}
    machine = target.create_target_machine(cpu=cpu, features=features, codemodel="jitdefault", jit=True, **options)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)


def load(code: bytes, symbol: str) -> int:
    """The address of a function in an object file, made executable for as long as the process lives."""
    from llvmlite import binding

    with _loading:
        engine = _engine()
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return engine.get_function_address(symbol)


def assemble(text: str, symbol: str) -> int:
    """The address of a function written as LLVM IR."""
    from llvmlite import binding

    with _loading:
        engine = _engine()
        engine.add_module(binding.parse_assembly(text))
        engine.finalize_object()
        return engine.get_function_address(symbol)
