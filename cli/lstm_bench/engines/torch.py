"""PyTorch: `torch.nn.LSTM`, under inference_mode unless it trains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..workload import Workload
from .adapter import Adapter


class Engine(Adapter):
    """PyTorch on the CPU."""

    def __init__(self, threads: int) -> None:
        """Set PyTorch's threads; one operator runs at a time."""
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)

    def version(self) -> str:
        """PyTorch's version."""
        return torch.__version__

    def _layer(self, work: Workload) -> torch.nn.LSTM:
        case = work.case
        lstm = torch.nn.LSTM(
            case.I, case.H, case.layers, bidirectional=case.bidirectional, dtype=self.native(work.x).dtype
        )
        lstm.load_state_dict({name: torch.from_numpy(value) for name, value in work.params.items()})
        return lstm

    def inference(self, work: Workload) -> Callable[[], torch.Tensor]:
        """One call under inference_mode."""
        lstm, x = self._layer(work).eval(), self.native(work.x)

        def run() -> torch.Tensor:
            with torch.inference_mode():
                y: torch.Tensor = lstm(x)[0]
                return y

        return run

    def training(self, work: Workload) -> Callable[[], tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
        """Forward and backward; gradients are made anew in each run, as after `zero_grad(set_to_none=True)`."""
        lstm, dy = self._layer(work), self.native(work.dy)
        x = self.native(work.x).requires_grad_()
        names, params = zip(*lstm.named_parameters(), strict=True)

        def run() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            y = lstm(x)[0]
            dx, *grads = torch.autograd.grad(y, (x, *params), dy)
            return y, dx, dict(zip(names, grads, strict=True))

        return run

    def stream(self, work: Workload) -> Callable[[torch.Tensor], torch.Tensor]:
        """A sequence of one step a call, the state handed from call to call."""
        lstm, state = self._layer(work).eval(), None

        def step(x: torch.Tensor) -> torch.Tensor:
            nonlocal state
            with torch.inference_mode():
                y, state = lstm(x[None], state)
                last: torch.Tensor = y[0]
                return last

        return step

    def native(self, array: np.ndarray) -> torch.Tensor:
        """The array as a tensor."""
        return torch.from_numpy(array)

    def numpy(self, value: torch.Tensor) -> np.ndarray:
        """The tensor as an array."""
        return value.detach().numpy().copy()
