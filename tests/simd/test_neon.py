"""AArch64, read in assembly: the kernels compile for it, and the tiles keep to its registers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# The package's top module is left out: it would ask for this machine's registers before they are replaced.
SCRIPT = """
import importlib.util, json, sys, types
package = types.ModuleType("fastlstm")
package.__path__ = importlib.util.find_spec("fastlstm").submodule_search_locations
sys.modules["fastlstm"] = package

from llvmlite import binding
from fastlstm.simd import isa
isa.classify = lambda *machine: isa.Target("neon", 128, 32, "neon")
from fastlstm.runtime import compiling, linking
from fastlstm.runtime.variant import Variant

binding.initialize_all_targets()
binding.initialize_all_asmprinters()

def emit(self, function, symbol):
    module, texts = self.module(function, symbol), {}
    for cpu, triple in (("neoverse-n1", "aarch64-unknown-linux-gnu"), ("apple-m1", "arm64-apple-macosx")):
        machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
        copy = module.clone()
        copy.triple, copy.data_layout = triple, str(machine.target_data)
        texts[cpu] = machine.emit_assembly(copy)
    return texts

linking.Emitted.emit = emit
found = {}
for name, variant in (("forward", Variant(training=True)), ("backward", Variant()), ("forward", Variant("float64"))):
    for cpu, text in compiling.compiled(name, variant, "worker").items():
        found[f"{cpu} {name} {variant.dtype}"] = text
json.dump(found, sys.stdout)
"""
TILE = re.compile(r"^_?fastlstm_tile_f(32|64)_(\d)x(\d+):\n(.*?)^\s+ret$", re.M | re.S)
LOOP = re.compile(r"^\.?(LBB\w+):.*?\n(.*?)b\.\w+\s+\.?\1$", re.M | re.S)


@pytest.fixture(scope="module")
def assembly() -> dict[str, str]:
    """The text of some workers for each processor."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("cpu", ["neoverse-n1", "apple-m1"])
@pytest.mark.parametrize("worker", ["forward float32", "backward float32", "forward float64"])
def test_the_tiles_loops_spill_nothing(assembly: dict[str, str], cpu: str, worker: str) -> None:
    """One multiply-add for each accumulator, and no address on the stack."""
    tiles = TILE.findall(assembly[f"{cpu} {worker}"])
    assert {(int(rows), int(vectors)) for _, rows, vectors, _ in tiles} >= {(6, 4), (1, 4), (3, 8), (1, 16)}
    for bits, rows, vectors, body in tiles:
        (loop,) = [inside for _, inside in LOOP.findall(body) if "fmla" in inside]
        assert bits == worker[-2:]
        assert loop.count("fmla") == int(rows) * int(vectors), (rows, vectors)
        assert "[sp" not in loop and "[x29" not in loop, f"{rows} x {vectors}:\n{loop}"
