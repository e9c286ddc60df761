"""fastlstm: the LSTM for CPUs, forward and backward as Numba-compiled kernels.

Importing compiles nothing; a kernel is compiled when it is first needed, and kept on disk.
"""

from fastlstm.ahead import warmup
from fastlstm.clipping import clip_grad_norm, clip_grad_value
from fastlstm.layer import LSTM
from fastlstm.lstm_cell import LSTMCell
from fastlstm.runtime.threads import get_num_threads, set_num_threads
from fastlstm.sequences import PackedSequence
from fastlstm.stream import Stream
from fastlstm.trace import Trace

__version__ = "0.1.0"

__all__ = [
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
