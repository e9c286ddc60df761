"""How long a new process takes to its first result: medians of five, in seconds.

    python benchmarks/start.py [--runs 5]

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
    runs = parser.parse_args().runs

    def show(name: str, times: list[float]) -> None:
        print(f"{name:44} {statistics.median(times):6.2f}   ({min(times):.2f} to {max(times):.2f})", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        show("python, and import numpy", [seconds("import numpy", folder) for _ in range(runs)])
        show("import fastlstm", [seconds(IMPORT, folder) for _ in range(runs)])
        for name, script in (("inference", INFERENCE), ("inference and training", TRAINING)):
            show(f"cold, {name}", [seconds(script, f"{folder}/{name}{k}") for k in range(runs)])
            show(f"warm, {name}", [seconds(script, f"{folder}/{name}0") for _ in range(runs)])
            one = "import fastlstm; fastlstm.set_num_threads(1); " + script
            show(f"warm, {name}, one thread", [seconds(one, f"{folder}/{name}0") for _ in range(runs)])
        show("lstm-bench --help", [seconds(HELP, folder) for _ in range(runs)])
        if importlib.util.find_spec("torch"):
            show("PyTorch, inference", [seconds(TORCH, folder) for _ in range(runs)])
        if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
            import fastlstm
            import fastlstm.onnx

            path = Path(folder, "lstm.onnx")
            fastlstm.onnx.export(fastlstm.LSTM(128, 128), path)
            show("onnxruntime, inference", [seconds(ONNX, folder, str(path)) for _ in range(runs)])


if __name__ == "__main__":
    main()
