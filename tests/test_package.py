"""The house: its rooms, doors and name plates.

Which room imports which, the public names, and that an import compiles nothing and loads nobody else's library.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastlstm

PACKAGE = Path(fastlstm.__file__).parent
SURFACE = {"", "cell", "checks", "layer", "lstm_cell", "stream"}  # "" is the package itself
# Each named after the one library that it, and nobody else, imports.
ADAPTERS = {"torch", "keras", "onnx", "sklearn"}
# What each room, or file of the package's top folder, may import of the package besides itself.
ALLOWED = {
    "cell": {"checks"},
    "checks": set(),
    "directions": {"checks"},
    "clipping": {"checks"},
    "parameters": set(),
    "rounding": set(),
    "reference": {"cell"},
    "runtime": set(),
    "simd": {"runtime"},
    "kernels": {"simd", "runtime"},
    "plan": {"simd"},
    "passes": {"kernels", "simd", "runtime", "plan", "cell", "rounding"},
    "stream": {"passes", "runtime", "checks"},
    "parameterised": {"passes", "runtime", "cell", "checks", "parameters"},
    "sequences": {"passes", "checks"},
    "layer_call": {"parameterised", "sequences", "passes", "plan", "runtime", "directions", "checks"},
    "trace": {"layer_call", "parameterised", "sequences", "passes", "runtime", "cell", "checks"},
    "inspect": {"checks", "trace"},
    "inference": {"layer_call", "parameterised", "stream", "passes", "plan", "runtime", "directions", "checks"},
    "quantized": {"inference", "parameters", "rounding", "sequences", "passes", "checks"},
    "layer": {"layer_call", "inference", "trace", "quantized", "passes", "cell", "directions", "checks"},
    "lstm_cell": {"layer", "inference", "passes", "checks"},
    "ahead": {"layer", "plan", "runtime", "checks"},
    "": {"ahead", "clipping", "layer", "lstm_cell", "sequences", "stream", "trace", "runtime"},
    "models": SURFACE | {"clipping", "runtime", "simd"},
    "state_dicts": set(),
    "weights": {"state_dicts"},
    # An adapter whose framework wants an operator of its own stands where the layer does, on the passes; never lower.
    **{adapter: SURFACE | {"models", "weights", "sequences", "passes", "plan", "runtime"} for adapter in ADAPTERS},
    "torch": SURFACE | {"directions", "sequences", "passes", "plan", "runtime"},
    # On PyTorch it is that adapter's operator; elsewhere it hands Keras's own masks to a call.
    "keras": SURFACE | {"models", "passes", "runtime", "layer_call", "torch"},
}
# The one knot: a worker is looked up by its name in passes.entries when it is compiled, at the latest moment.
LATE = {("runtime/compiling.py", "passes")}
# Who may import a library besides NumPy and Python's own: the rooms, or the files.
OTHERS = {
    "llvmlite": {"simd", "runtime"},
    "numba": {"simd", "runtime", "models/kernels.py"},
    "matplotlib": {"models", "inspect"},
    "safetensors": {"models", "weights"},
    **{adapter: {adapter} for adapter in ADAPTERS},
    "torch": {"torch", "weights", "keras"},
    "jax": {"keras"},
    "tensorflow": {"keras"},
    "onnxruntime": {"onnx"},
    "google": {"onnx"},  # protobuf, onnx's own
}


def room(parts: tuple[str, ...]) -> str:
    """The room of a file or module inside the package."""
    return parts[0] if parts else ""


def imports() -> list[tuple[str, str]]:
    """(file, imported module) for every import in the package, those inside functions included.

    Names of the package are told apart from modules.
    """
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: a relative import"
                base = PACKAGE.joinpath(*node.module.split(".")[1:])
                for alias in node.names:
                    inside = node.module.startswith("fastlstm") and (
                        (base / alias.name).is_dir() or (base / f"{alias.name}.py").exists()
                    )
                    found.append((name, f"{node.module}.{alias.name}" if inside else node.module))
    assert len(found) > 50, "the package was not found"
    return found


def room_of_file(name: str) -> str:
    parts = tuple(name.removesuffix(".py").split("/"))
    return room(() if parts == ("__init__",) else parts)


def test_imports_run_one_way() -> None:
    wrong = []
    for name, module in imports():
        if not module.startswith("fastlstm"):
            continue
        here, there = room_of_file(name), room(tuple(module.split(".")[1:]))
        assert here in ALLOWED, f"{name}: a new room; say in ALLOWED what it may import"
        if there != here and there not in ALLOWED[here] and (name, there) not in LATE:
            wrong.append(f"{name} imports {module}")
    assert not wrong


def test_the_order_has_no_circle() -> None:
    """ALLOWED itself runs one way: the rooms can be sorted, each after those that it imports."""
    left = {name: set(needs) for name, needs in ALLOWED.items()}
    while left:
        free = [name for name, needs in left.items() if not needs & set(left)]
        assert free, f"a circle among {sorted(left)}"
        for name in free:
            del left[name]


def test_other_libraries_stay_in_their_rooms() -> None:
    wrong = []
    for name, module in imports():
        library = module.split(".")[0]
        if library in sys.stdlib_module_names or library in ("fastlstm", "numpy"):
            continue
        if not {room_of_file(name), name} & OTHERS.get(library, set()):
            wrong.append(f"{name} imports {module}")
    assert not wrong


def test_the_reference_is_plain_numpy() -> None:
    used = {module.split(".")[0] for name, module in imports() if name in ("reference.py", "cell.py")} - set(
        sys.stdlib_module_names
    )
    assert used == {"numpy", "fastlstm"}
    assert not [name for name, module in imports() if module == "fastlstm.reference"], (
        "something fast imports the specification"
    )


def test_public_names() -> None:
    assert sorted(fastlstm.__all__) == [
        "LSTM",
        "LSTMCell",
        "PackedSequence",
        "Stream",
        "Trace",
        "__version__",
        "clip_grad_norm",
        "clip_grad_value",
        "get_num_threads",
        "set_num_threads",
        "warmup",
    ]
    assert all(hasattr(fastlstm, name) for name in fastlstm.__all__)


def test_public_names_are_documented() -> None:
    for name in fastlstm.__all__:
        thing = getattr(fastlstm, name)
        if isinstance(thing, type):
            members = [
                value
                for key, value in vars(thing).items()
                if not key.startswith("_") and (callable(value) or isinstance(value, property))
            ]
            assert all(member.__doc__ for member in members), name
        assert thing.__doc__, name


def test_version() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', project, re.M)[1] == fastlstm.__version__


def run(script: str) -> str:
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True).stdout


def test_import_compiles_nothing() -> None:
    script = """
from numba.core import event
with event.install_recorder("numba:compile") as imported:
    import fastlstm
    layer = fastlstm.LSTM(3, 4)
    cell = fastlstm.LSTMCell(3, 4)
with event.install_recorder("numba:compile") as called:
    import numba
    numba.njit(lambda: 1)()
print(len(imported.buffer), len(called.buffer) > 0)
"""
    assert run(script).split() == ["0", "True"]


def test_import_loads_nobody_elses_library() -> None:
    loaded = run("import sys, fastlstm; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert {"fastlstm", "numpy"} <= set(loaded)
    assert not {
        "numba",  # nor those that come with it: they are asked for when something is compiled, or run on threads
        "llvmlite",
        "torch",
        "tensorflow",
        "keras",
        "jax",
        "onnx",
        "onnxruntime",
        "sklearn",
        "matplotlib",
        "click",
        "lstm_bench",
    } & set(loaded)


def test_calls_whose_kernels_are_kept_do_not_wait_for_numba() -> None:
    script = """
import sys
import numpy as np
import fastlstm
fastlstm.set_num_threads(1)
lstm = fastlstm.LSTM(3, 4)
for T in (1, 50):
    y, _, tape = lstm.forward(np.ones((T, 2, 3), np.float32))
    lstm.backward(tape, y)
    lstm(np.ones((T, 2, 3), np.float32))
lstm.stream().step(np.ones(3, np.float32))
print("numba" in sys.modules)
"""
    run(script)
    assert run(script).strip() == "False"


@pytest.mark.parametrize(
    "module", ["reference", "simd.math", "runtime.workers", "passes.entries", "kernels.gemm", "plan"]
)
def test_each_room_can_be_entered_first(module: str) -> None:
    assert run(f"import fastlstm.{module} as entered; print(entered.__name__)").strip() == f"fastlstm.{module}"
