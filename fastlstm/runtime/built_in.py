"""Built-in functions of Python's, made of compiled code (`simd.objects`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

FASTCALL = 0x80  # how Python hands over arguments: METH_FASTCALL


class _Definition(ctypes.Structure):
    """`PyMethodDef`."""

    _fields_ = [("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


_definition = cache(_Definition)  # functions refer to theirs for as long as they live


def built_in(name: str, code: int, of: object) -> Callable[..., Any]:
    """A function that runs the code at an address, with an object of its own."""
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return make(ctypes.addressof(_definition(name.encode(), code, FASTCALL, None)), of, None)
