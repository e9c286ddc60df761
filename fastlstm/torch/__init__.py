"""PyTorch: `LSTM` and `LSTMCell` as modules in the places of torch's own; `accelerate` swaps those of a model.

Gradients go through a registered operator, so autograd, `torch.compile`, `torch.export`, `functional_call` and
`DistributedDataParallel` work as with any module. Contiguous tensors are not copied, and neither torch's thread
settings nor this library's are changed: a call takes as many threads as both allow.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401  # here, so that its absence is told in one line
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("fastlstm.torch needs PyTorch: pip install 'fastlstm[torch]'", name="torch") from None

from fastlstm.torch.lstm_cell import LSTMCell
from fastlstm.torch.modules import LSTM
from fastlstm.torch.swap import Report, accelerate

__all__ = ["LSTM", "LSTMCell", "Report", "accelerate"]
