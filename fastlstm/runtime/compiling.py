"""A worker from its source to an object file; and Numba's own cache, for functions that take arrays, beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from numba.core import caching, compiler, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from fastlstm.runtime.cache import PACKAGE, digest, folder
from fastlstm.runtime.jit import BUILT_IN, WORKER
from fastlstm.runtime.linking import Emitted
from fastlstm.runtime.machine import processor
from fastlstm.runtime.variant import Variant


@contextmanager
def remembering(context: Any, target: Any) -> Iterator[None]:
    """What Numba asks again and again is found once: the type that a call has (it tries every way to add two numbers
    anew wherever some are), and the size of a variable, which nobody uses where nothing is to be debugged.
    """
    resolve, known = context.resolve_function_type, dict[Any, Any]()

    def remembered(function: Any, args: tuple, kws: dict) -> Any:
        if kws or not isinstance(function, types.Function):
            return resolve(function, args, kws)
        key = function, args
        found = known.get(key)
        if found is None:
            found = known[key] = resolve(function, args, kws)
        return found

    context.resolve_function_type = remembered
    target.get_abi_sizeof = cache(target.get_abi_sizeof)
    try:
        yield
    finally:
        del context.resolve_function_type, target.get_abi_sizeof


@global_compiler_lock
def compiled(name: str, variant: Variant, symbol: str) -> bytes:
    """An object file that defines the worker `name` of `passes.entries`, for a variant, as `symbol`."""
    from fastlstm.passes import entries

    context = cpu_target.target_context
    codegen = context.codegen()
    if (meant := (tuple(processor()))) != (found := codegen.magic_tuple()):
        raise RuntimeError(
            f"Numba must compile for the processor {meant[1]} ({meant[2]}), which it was set to when fastlstm was "
            f"first asked, but compiles for {found[1]} ({found[2]})"
        )
    flags = compiler.Flags()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    library = Emitted(codegen, symbol)
    function = getattr(entries, name)(variant)
    signature = WORKER if function.__code__.co_argcount == len(WORKER.args) else BUILT_IN
    with remembering(cpu_target.typing_context, context):
        result = compiler.compile_extra(
            cpu_target.typing_context, context, function, signature.args, signature.return_type, flags, {},
            library=library,
        )  # fmt: skip
    return library.emit(result.fndesc.mangled_name, symbol, returns=signature is BUILT_IN)


class Locator(caching._CacheLocator):
    """Tells Numba to keep the kernels of this package in `folder()`; it takes no function of anybody else."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return digest()

    def get_disambiguator(self) -> str:
        return self._name

    @classmethod
    def from_function(cls, py_func, py_file):
        if Path(py_file).is_relative_to(PACKAGE) and folder() is not None:
            return cls(f"{Path(py_file).stem}-{py_func.__code__.co_firstlineno}")
        return None


caching.CacheImpl._locator_classes.insert(0, Locator)
