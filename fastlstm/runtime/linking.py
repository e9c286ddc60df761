"""How many functions become one worker: linked first, optimised once.

By itself Numba optimises every function, with all that it calls, and makes machine code of it; a worker is made of some
sixty, of which only the worker is ever called from outside. Two thirds of the time that compiling took went there.
"""

from __future__ import annotations

import ctypes

from llvmlite import binding
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.typed_passes import InlineOverloads, NopythonRewrites
from numba.core.untyped_passes import FixupArgs, InlineClosureLikes

from fastlstm.runtime.pruning import ConstantAttributes


class Part(JITCodeLibrary):
    """The code of a function that a worker calls: kept as it was generated, to be linked."""

    def _optimize_functions(self, ll_module) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True

    def parts(self) -> list[JITCodeLibrary]:
        """The libraries of all that this code calls, each before its callers; itself last."""
        return [*_parts(self._linking_libraries), self]

    def get_pointer_to_function(self, name: str) -> int:
        """A function that raises TypeError: there is no machine code of a part for Python to call."""
        self._ensure_finalized()
        return ctypes.cast(ctypes.pythonapi.PyErr_BadArgument, ctypes.c_void_p).value or 0

    @property
    def codegen(self) -> type:
        return _NoEnvironment


class _NoEnvironment:
    """Stands where Numba looks for the machine code's globals, to tell it Python's."""

    @staticmethod
    def set_env(name: str, environment: object) -> None:
        """Do nothing: no part uses Python."""


class Whole(JITCodeLibrary):
    """The code of a worker."""

    def finalize(self) -> None:
        # Callers first: of what may be left out, LLVM takes only what is asked for so far.
        self._linking_libraries: list = _parts(self._linking_libraries)[::-1]
        super().finalize()


# C functions that machine code may call; others would be Python's or Numba's, for an error that no worker raises.
KNOWN = {"memcpy", "memmove", "memset", "sched_getcpu", "sched_yield", "syscall", "SwitchToThread"}
PYTHONS = {  # what built-in functions call besides
    "PyErr_Occurred", "PyEval_RestoreThread", "PyEval_SaveThread", "PyLong_AsSsize_t", "PyLong_FromSsize_t"
}  # fmt: skip
WORKER_ENTRY = """
declare i32 @"{function}"(ptr, ptr, i64, i64)

define void @{symbol}(i64 %part, i64 %frame) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @"{function}"(ptr %result, ptr %error, i64 %part, i64 %frame)
  ret void
}}
"""
BUILT_IN_ENTRY = """
declare i32 @"{function}"(ptr, ptr, i64, i64, i64)

define i64 @{symbol}(i64 %self, i64 %arguments, i64 %count) {{
  %result = alloca i64
  %error = alloca ptr
  %status = call i32 @"{function}"(ptr %result, ptr %error, i64 %self, i64 %arguments, i64 %count)
  %object = load i64, ptr %result
  ret i64 %object
}}
"""


class Emitted(Whole):
    """The code of a worker as an object file, which nothing but C functions of every system is missing."""

    def emit(self, function: str, symbol: str, returns: bool = False) -> bytes:
        """The object file, with a C function `symbol` that calls Numba's `function`: of a part and a frame or, if it
        returns something, one for Python to call.
        """
        return self._codegen._tm.emit_object(self.module(function, symbol, returns))

    def module(self, function: str, symbol: str, returns: bool = False) -> binding.ModuleRef:
        """What the object file is made from."""
        entry = BUILT_IN_ENTRY if returns else WORKER_ENTRY
        self.add_llvm_module(binding.parse_assembly(entry.format(function=function, symbol=symbol)))
        self._symbol, self._known = symbol, KNOWN | PYTHONS if returns else KNOWN
        self.finalize()
        return self._final_module

    def _optimize_final_module(self) -> None:
        self._keep_to_this_file("linkonce_odr")
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)
        self._keep_to_this_file("internal")

    def _keep_to_this_file(self, linkage: str) -> None:
        """Give all but the entry a linkage. With `linkonce_odr` LLVM leaves out what it has put into all callers; with
        `internal` it would also put large functions into their only caller, and take longer over both.
        """
        for thing in (*self._final_module.functions, *self._final_module.global_variables):
            if not thing.is_declaration and thing.name != self._symbol:
                thing.linkage = linkage

    def _finalize_final_module(self) -> None:
        self._finalized = True
        missing = {f.name for f in self._final_module.functions if f.is_declaration and not f.name.startswith("llvm.")}
        if foreign := missing - self._known:
            known = sorted(self._known)
            raise RuntimeError(f"compiled code must call none but {known} of others, but calls {sorted(foreign)}")


def _parts(libraries: list) -> list[JITCodeLibrary]:
    found: dict = {}
    for library in libraries:
        found |= dict.fromkeys(library.parts() if isinstance(library, Part) else [library])
    return [*found]


NOT_NEEDED = {InlineClosureLikes, InlineOverloads, NopythonRewrites}


class PartCompiler(Compiler):
    """Numba's compiler, into a `Part`."""

    def __init__(self, typingctx, targetctx, library, *rest) -> None:
        super().__init__(typingctx, targetctx, library or Part(targetctx.codegen(), "part"), *rest)

    def define_pipelines(self) -> list:
        """Numba's, with branches on a variant decided first, and without what only arrays and closures need."""
        pipelines = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.add_pass_after(ConstantAttributes, FixupArgs)
            pipeline.passes[:] = [step for step in pipeline.passes if step[0] not in NOT_NEEDED]
            pipeline.finalize()
        return pipelines


class WholeCompiler(Compiler):
    """Numba's compiler, into a `Whole`: for tests of kernels."""

    def __init__(self, typingctx, targetctx, library, *rest) -> None:
        if library is None:
            library = Whole(targetctx.codegen(), "worker")
            library.enable_object_caching()
        super().__init__(typingctx, targetctx, library, *rest)


# Options of numba.njit, for what a worker calls, and for what calls it.
PART = {
    "error_model": "numpy",
    "pipeline_class": PartCompiler,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
WHOLE = {"error_model": "numpy", "pipeline_class": WholeCompiler}
