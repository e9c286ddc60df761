"""OpenVINO: the same ONNX model, compiled for the CPU plugin in full precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov

from ..onnx_model import one_step, sequence_model, state_names
from ..workload import Workload
from .adapter import Adapter


class Engine(Adapter):
    """OpenVINO's CPU plugin; it does not train, and it would compute float64 in float32."""

    modes = ("inference", "stream")
    dtypes = ("float32",)

    def version(self) -> str:
        """OpenVINO's version, without its build's hash."""
        return str(ov.__version__).split("-")[0]

    def _request(self, model: bytes) -> Any:
        core = ov.Core()
        # Left alone it takes bfloat16 where the processor has it: faster, and no longer the same calculation.
        settings = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
        return core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()

    def inference(self, work: Workload) -> Callable[[], np.ndarray]:
        """One request with bound input."""
        request = self._request(sequence_model(work))
        x, output = request.get_input_tensor().data, request.get_output_tensor().data
        x[:] = work.x

        def run() -> np.ndarray:
            request.infer()
            return output

        return run

    def stream(self, work: Workload) -> Callable[[np.ndarray], np.ndarray]:
        """A sequence of one step a call, the state copied back in place."""
        request = self._request(sequence_model(one_step(work), stateful=True))
        x, y = request.get_tensor("x").data, request.get_tensor("y").data
        states = [
            (request.get_tensor(name).data, request.get_tensor(f"{name}_n").data) for name in state_names(work.case)
        ]
        for before, _ in states:
            before[:] = 0

        def step(x_t: np.ndarray) -> np.ndarray:
            x[0] = x_t
            request.infer()
            for before, after in states:
                before[:] = after
            last: np.ndarray = y[0]
            return last

        return step
