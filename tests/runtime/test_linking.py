"""How functions become one worker."""

from __future__ import annotations

import re

import numba
import pytest
from numba.core import types

from fastlstm.runtime.jit import inline, kernel
from fastlstm.runtime.linking import WHOLE


@inline
def double(x):
    return x + x


@kernel
def sum_to(n):
    total = 0
    for k in range(n):
        total += min(double(k), 100)
    return total


@kernel
def twice(n):
    return sum_to(n) + sum_to(n + 1)


def names(function, declared: bool) -> set[str]:
    """Which of the functions above the code of a compiled one declares, or defines."""
    (code,) = function.inspect_llvm().values()
    kind = "declare" if declared else "define"
    found = " ".join(re.findall(rf'^{kind} [^@]*@("[^"]*"|[^(]*)', code, re.MULTILINE))
    return {name for name in ("double", "sum_to", "twice") if name in found}


def test_a_worker_links_all_that_it_calls_and_optimises_once() -> None:
    """Also what Numba itself brings, such as min, and what is called by two of its parts."""
    whole = numba.njit("intp(intp)", **WHOLE)(lambda n: twice(n) + sum_to(n))
    assert whole(60) == 2 * sum(min(2 * k, 100) for k in range(60)) + sum(min(2 * k, 100) for k in range(61))
    assert names(sum_to, declared=False) == {"sum_to"}, "a part was linked"
    assert names(sum_to, declared=True) == {"double"}, "a part was optimised"
    assert "double" not in names(whole, declared=False), "the worker was not optimised"


def test_a_part_is_not_called_from_python() -> None:
    with pytest.raises(TypeError):
        sum_to(3)
    twice.compile((types.intp,))
    with pytest.raises(TypeError):
        twice(3)
    assert twice.py_func.__name__ == "twice"
