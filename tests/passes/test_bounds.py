"""No pass reads or writes beyond the arrays that it is given, or beyond packed weights and workspace.

Each array ends where a page begins that nobody may touch, which would end the process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, faulthandler, mmap, sys
import numpy as np
faulthandler.enable()
import fastlstm
from fastlstm.passes import packing, short, short_step
from fastlstm.runtime import memory
from layer_case import LayerCase

libc = ctypes.CDLL(None, use_errno=True)
kept = []

def guarded(array):
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    area = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    if libc.mprotect(ctypes.c_void_p(start + size), page, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = np.frombuffer(area, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    kept.append(area)
    return copy

def guarded_lines(count, dtype):
    item = np.dtype(dtype).itemsize
    return guarded(np.full(-(-count * item // 64) * 64 // item, 1e30, dtype))[:count]

for options in sys.argv[1:]:
    case = eval(f"LayerCase({options})")
    plain = case.found()
    for name, array in case.arrays.items():
        case.arrays[name] = guarded(array)
    for name, array in case.lstm._parameters.items():
        case.lstm._parameters[name] = guarded(array)
    case.lstm._packed.clear()
    for threads in (1, 2):
        fastlstm.set_num_threads(threads)
        found = case.found()
        assert all(np.array_equal(found[name], plain[name]) for name in plain), options
        case.inferred()
    held = [*case.lstm.parameters.values()]  # so that a step reads them where they lie
    assert held and all(np.array_equal(array, plain[name]) for name, array in case.found().items()), options
    if not case.bidirectional:
        case.lstm.stream(case.B).step(case.arrays["x"][0])
memory.Pool.take = lambda self, count, dtype: guarded_lines(count, dtype)
for module in (packing, short, short_step):
    module.aligned = guarded_lines
for options in sys.argv[1:]:
    for threads in (1, 2):
        fastlstm.set_num_threads(threads)
        case = eval(f"LayerCase({options})")
        plain = case.found()
        held = [*case.lstm.parameters.values()]
        assert held and all(np.array_equal(array, plain[name]) for name, array in case.found().items()), options
        if not case.bidirectional:
            case.lstm.stream(case.B).step(case.arrays["x"][0])
for weights in ("int8", "bfloat16"):
    case = LayerCase(T=3, B=4, I=5, H=33)
    q, x = case.lstm.quantize(weights), guarded(case.arrays["x"])
    plain = q(x)[0]
    q._panels["_l0"] = q._pack("forward", "_l0")._replace(
        **{name: guarded(getattr(q._pack("forward", "_l0"), name)) for name in ("weights", "bias")}
    )
    q._short.clear()
    assert np.array_equal(q(x)[0], plain) and np.array_equal(q.stream(4).step(x[0]), plain[0])
print("kept within")
x = guarded(np.zeros(4, np.float32))
sys.stdout.flush()
ctypes.string_at(x.ctypes.data + x.nbytes, 1)  # the guard does guard: this must end the process
"""
CASES = [
    "T=1, B=1, I=1, H=1",
    "T=3, B=2, I=3, H=5, dtype='float64'",
    "T=1, B=100, I=21, H=65",
    "T=2, B=9, I=130, H=45",
    "T=5, B=7, I=17, H=33, layers=2",
    "T=40, B=4, I=20, H=65, bidirectional=True",
    "T=9, B=13, I=130, H=31, dtype='float64'",
    "T=70, B=8, I=64, H=96",
    "T=20, B=37, I=30, H=70",
    "T=5, B=100, I=70, H=128",
    "T=90, B=3, I=513, H=65",
    "T=2, B=520, I=100, H=193",
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are guarded by Linux's mprotect")
def test_nothing_beyond_the_arrays() -> None:
    command = [sys.executable, "-c", SCRIPT, *CASES]
    process = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert process.stdout == "kept within\n", process.stderr
    assert process.returncode < 0, "the guard did not guard"
