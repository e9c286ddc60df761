"""ONNX Runtime: its LSTM operator, one session a case, outputs bound beforehand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort

from ..onnx_model import one_step, sequence_model, state_names
from ..workload import Workload
from .adapter import Adapter


class Engine(Adapter):
    """ONNX Runtime's CPU provider; it does not train, and its LSTM knows float32 only."""

    modes = ("inference", "stream")
    dtypes = ("float32",)

    def version(self) -> str:
        """ONNX Runtime's version."""
        return str(ort.__version__)

    def _session(self, model: bytes) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Its threads spin between operators, as they do best, but not after the run, when another engine is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def inference(self, work: Workload) -> Callable[[], np.ndarray]:
        """One run with bound input and output."""
        session = self._session(sequence_model(work))
        y = np.empty(work.dy.shape, work.x.dtype)
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(work.x))
        output = ort.OrtValue.ortvalue_from_numpy(y)
        binding.bind_ortvalue_output("y", output)

        def run() -> np.ndarray:
            session.run_with_iobinding(binding)
            return output

        return run

    def stream(self, work: Workload) -> Callable[[np.ndarray], np.ndarray]:
        """A sequence of one step a call, the state fed back."""
        session = self._session(sequence_model(one_step(work), stateful=True))
        names = state_names(work.case)
        fed = {name: np.zeros((1, work.case.B, work.case.H), work.x.dtype) for name in names}

        def step(x: np.ndarray) -> np.ndarray:
            fed["x"] = x[None]
            y, *states = session.run(None, fed)
            fed.update(zip(names, states, strict=True))
            first: np.ndarray = y[0]
            return first

        return step

    def numpy(self, value: ort.OrtValue | np.ndarray) -> np.ndarray:
        """The result as an array of its own."""
        return np.array(value if isinstance(value, np.ndarray) else value.numpy())
