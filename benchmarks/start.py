"""How long a new process takes to its first result: medians of five, in seconds.

    python benchmarks/start.py [--runs 5] [--only "cold, inference"]

`cold` finds no kernel on disk and compiles what it needs; `warm` finds them all. PyTorch and onnxruntime beside, where
they are installed. The case is lstm-bench's vad-sequence: B = 1, T = 512, I = H = 128.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ARRAYS = "import numpy as np; x = np.zeros((512, 1, 128), np.float32); "
IMPORT = "import fastlstm"
INFERENCE = ARRAYS + "import fastlstm; fastlstm.LSTM(128, 128)(x)"
TRAINING = ARRAYS + (
    "import fastlstm; lstm = fastlstm.LSTM(128, 128); lstm(x); y, _, tape = lstm.forward(x); lstm.backward(tape, y)"
)
TORCH = ARRAYS + ("import torch\nwith torch.inference_mode(): torch.nn.LSTM(128, 128)(torch.from_numpy(x))")
ONNX = ARRAYS + (
    "import sys, onnxruntime as o; s = o.InferenceSession(sys.argv[1]); zeros = np.zeros((1, 1, 128), np.float32); "
    "s.run(None, {given.name: x if given.name == 'x' else zeros for given in s.get_inputs()})"
)
HELP = (
    "import os, sys; sys.argv = ['lstm-bench', '--help']; sys.stdout = open(os.devnull, 'w'); "
    "from lstm_bench.__main__ import main; main()"
)


def seconds(script: str, cache: str, *arguments: str) -> float:
    """From starting a process to its end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", script, *arguments], env=os.environ | {"FASTLSTM_CACHE_DIR": cache}, check=True
    )
    return time.perf_counter() - began


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="the lines whose names begin so")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:

        def show(name: str, script: str, cache: Callable[[int], str] = lambda k: folder, *arguments: str) -> None:
            if not name.startswith(given.only):
                return
            if name.startswith("warm"):
                seconds(script, cache(0))
            times = [seconds(script, cache(k), *arguments) for k in range(given.runs)]
            print(f"{name:44} {statistics.median(times):6.2f}   ({min(times):.2f} to {max(times):.2f})", flush=True)

        show("python, and import numpy", "import numpy")
        show("import fastlstm", IMPORT)
        for name, script in (("inference", INFERENCE), ("inference and training", TRAINING)):
            show(f"cold, {name}", script, lambda k, name=name: f"{folder}/{name}{k}")
            show(f"warm, {name}", script, lambda k, name=name: f"{folder}/{name}0")
            one = "import fastlstm; fastlstm.set_num_threads(1); " + script
            show(f"warm, {name}, one thread", one, lambda k, name=name: f"{folder}/{name}0")
        show("lstm-bench --help", HELP)
        if importlib.util.find_spec("torch"):
            show("PyTorch, inference", TORCH)
        if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
            import fastlstm
            import fastlstm.onnx

            path = Path(folder, "lstm.onnx")
            fastlstm.onnx.export(fastlstm.LSTM(128, 128), path)
            show("onnxruntime, inference", ONNX, lambda k: folder, str(path))


if __name__ == "__main__":
    main()
