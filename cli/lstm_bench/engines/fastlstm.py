"""fastlstm: the subject."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastlstm

from ..workload import Workload
from .adapter import Adapter


class Engine(Adapter):
    """fastlstm, one layer object for all calls of a case."""

    traced = True

    def __init__(self, threads: int) -> None:
        """Give fastlstm this many threads."""
        super().__init__(threads)
        fastlstm.set_num_threads(threads)

    def version(self) -> str:
        """The library's version, Numba's, and the target that kernels are compiled for."""
        import numba

        from fastlstm.simd import isa

        return f"{fastlstm.__version__} (numba {numba.__version__}, {isa.target().name})"

    def layer(self, work: Workload) -> Any:
        """The LSTM with the workload's weights."""
        case = work.case
        lstm = fastlstm.LSTM(case.I, case.H, num_layers=case.layers, bidirectional=case.bidirectional,
                             dtype=work.x.dtype.type, seed=0)  # fmt: skip
        lstm.load_state_dict(work.params)
        return lstm

    def inference(self, work: Workload) -> Callable[[], np.ndarray]:
        """y of one call; the parameters are frozen, as a session's are."""
        lstm = self.layer(work)
        lstm.freeze()
        return lambda: lstm(work.x)[0]

    def training(self, work: Workload) -> Callable[[], tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
        """Forward with a tape, then backward."""
        lstm = self.layer(work)

        def run() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
            y, _, tape = lstm.forward(work.x)
            dx, _, grads = lstm.backward(tape, work.dy)
            return y, dx, grads

        return run

    def stream(self, work: Workload) -> Callable[[np.ndarray], np.ndarray]:
        """One step of a stream that keeps its state; the parameters are frozen here too."""
        lstm = self.layer(work)
        lstm.freeze()
        step: Callable[[np.ndarray], np.ndarray] = lstm.stream(batch_size=work.case.B).step
        return step
