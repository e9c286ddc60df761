"""AArch64: the kernels compile for it, the tiles keep to its registers, and all computes right on an emulated one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tolerances
from layer_case import LayerCase
from reference_case import Case

import fastlstm
from fastlstm.cell import CellSpec
from fastlstm.passes import packing
from fastlstm.simd.isa import target

SCRIPT = """
import aarch64, json, sys
aarch64.compile_for_it()
from fastlstm.runtime import compiling, linking
from fastlstm.runtime.variant import Variant

def emit(self, function, symbol, returns):
    module = self.module(function, symbol, returns)
    machines = {cpu: aarch64.machine_for(cpu) for cpu in aarch64.TRIPLE}
    return {cpu: at.emit_assembly(aarch64.retarget(module.clone(), at)) for cpu, at in machines.items()}

linking.Emitted.emit = emit
found = {}
for name, variant in (
    ("forward", Variant()), ("backward", Variant()), ("forward", Variant("float64")),
    ("forward", Variant(weights="int8")), ("forward", Variant(weights="bfloat16")),
):
    for cpu, text in compiling.compiled(name, variant, "worker").items():
        found[f"{cpu} {name} {variant.dtype} {variant.stored}"] = text
json.dump(found, sys.stdout)
"""
TILE = re.compile(r"^_?fastlstm_tile_(float\d\d)_(\w+)_(\d)x(\d+):\n(.*?)^\s+ret$", re.M | re.S)
LOOP = re.compile(r"^\.?(LBB\w+):.*?\n(.*?)b\.\w+\s+\.?\1$", re.M | re.S)


EMULATED = """
import aarch64, json, sys
aarch64.emulate()
import test_neon, tolerances
from variant_case import check
from fastlstm.simd.isa import target

assert target().name == "neon"
json.dump([test_neon.bits(threads) for threads in (1, 2)], sys.stdout)
check(test_neon.SPECIAL, tolerances.of_case(test_neon.SPECIAL))
"""
CASES = [
    LayerCase(dtype=dtype, **options)
    for dtype in ("float32", "float64")
    for options in (
        {"T": 6, "B": 7, "I": 5, "H": 19, "layers": 2, "bidirectional": True},
        {"T": 5, "B": 1, "I": 130, "H": 33},
        {"T": 4, "B": 14, "I": 3, "H": 37},
    )
]
SPECIAL = Case(
    CellSpec(peephole="diagonal", proj_size=3, layer_norm=True, clip=1.0),
    sizes=(4, 5, 3, 7),
    lengths=True,
    reset="zero",
)


def bits(threads: int) -> list[str]:
    """A hash of all results of each of `CASES`, which are the reference's, and of what quantised layers give."""
    fastlstm.set_num_threads(threads)
    found = []
    for case in CASES:
        arrays = case.found()
        tolerances.check(arrays, case.expected(), case)
        found.append(hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest())
    for weights in ("int8", "bfloat16"):
        with mock.patch.object(packing, "multiplies_bytes", return_value=False):  # sums so have bits of their own
            quantised = CASES[1].lstm.quantize(weights)
        y, _ = quantised(CASES[1].arrays["x"])
        found.append(hashlib.sha256(y.tobytes()).hexdigest())
    return found


def start(script: str) -> subprocess.Popen:
    """A process that finds the tests' modules."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=here,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(process: subprocess.Popen) -> Any:
    """The JSON that it prints."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, subprocess.Popen]]:
    """What is compiled for each processor, and what is emulated: both at the same time."""
    # The emulator asks Linux's /proc for this process's memory.
    started = {"compiled": start(SCRIPT)} | ({"emulated": start(EMULATED)} if sys.platform == "linux" else {})
    yield started
    for process in started.values():
        if process.returncode is None:  # its tests ran elsewhere
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def assembly(processes: dict[str, subprocess.Popen]) -> dict[str, str]:
    """The text of some workers for each processor."""
    return printed(processes["compiled"])


@pytest.mark.parametrize("cpu", ["neoverse-n1", "apple-m1"])
@pytest.mark.parametrize(
    "worker",
    [
        "forward float32 float32",
        "backward float32 float32",
        "forward float64 float64",
        "forward float32 int8",
        "forward float32 uint16",
    ],
)
def test_the_tiles_loops_spill_nothing(assembly: dict[str, str], cpu: str, worker: str) -> None:
    """One multiply-add for each accumulator, and no address on the stack."""
    tiles = TILE.findall(assembly[f"{cpu} {worker}"])
    _, dtype, stored = worker.split()
    of_all = {(6, 4), (1, 4), (1, 16)} | ({(3, 8)} if stored == dtype else set())
    assert {(int(rows), int(vectors)) for _, kind, rows, vectors, _ in tiles if kind == stored} >= of_all
    for *kind, rows, vectors, body in tiles:
        (loop,) = [inside for _, inside in LOOP.findall(body) if "fmla" in inside]
        assert kind in ([dtype, stored], [dtype, dtype])  # of panels that are widened first
        assert loop.count("fmla") == int(rows) * int(vectors), (rows, vectors)
        assert "[sp" not in loop and "[x29" not in loop, f"{rows} x {vectors}:\n{loop}"


def test_an_emulated_processor_gives_the_same_bits(processes: dict[str, subprocess.Popen]) -> None:
    """Of the plain cell, forward and backward, at one thread and at two; and another cell is the reference's."""
    here = bits(1)
    for found in printed(processes["emulated"]) if "emulated" in processes else ():
        assert found == here or target().name in ("sse", "generic")  # without a fused multiply-add
