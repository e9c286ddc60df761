"""The memory of tensors: seen as arrays, and new."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fastlstm.runtime import reuse
from fastlstm.torch.inputs import NAMES

_MAPPED = 1 << 25  # bytes from which on glibc has pages mapped, and cleared, anew for each tensor


def array_of(tensor: Tensor) -> np.ndarray:
    """The tensor's memory, in C order."""
    return tensor.detach().contiguous().numpy()


def lie(*tensors: Tensor) -> bool:
    """Whether a pass can read tensors by their addresses."""
    for tensor in tensors:  # no generator: a step takes as long as one
        if not tensor.is_contiguous() or tensor.is_neg():
            return False
    return True


def empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor; if it is large, in memory that an earlier one has left: else a training step of 256 rows
    over a year of days took 1.3 times as long. Smaller ones gain nothing.
    """
    if math.prod(shape) * like.element_size() < _MAPPED:
        return like.new_empty(shape)
    return torch.from_numpy(reuse.empty(shape, np.dtype(NAMES[like.dtype])))
