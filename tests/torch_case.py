"""A module of ours beside torch's: the same parameters, and what both make of the same input."""

from __future__ import annotations

import tolerances
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import fastlstm.torch


def flat(value) -> list[Tensor]:
    """The tensors of an output or input, in order."""
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in flat(part)]


def leaves(value):
    """The inputs as they lie in memory, as tensors that want gradients."""
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.detach().requires_grad_())
    if isinstance(value, Tensor):
        return value.detach().requires_grad_()
    return None if value is None else tuple(leaves(part) for part in value)


def results(module: torch.nn.Module, args: tuple, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """All outputs, and the gradients of a random function of them with respect to all inputs and parameters."""
    args = tuple(leaves(arg) for arg in args if arg is not None)
    module.zero_grad()
    torch.manual_seed(seed)
    outputs = flat(module(*args))
    torch.manual_seed(seed + 1)
    sum((out.square() * torch.randn(out.shape, dtype=out.dtype)).sum() for out in outputs).backward()
    return outputs, [*(leaf.grad for leaf in flat(args)), *(p.grad.clone() for p in module.parameters())]


def assert_same(ours: torch.nn.Module, theirs: torch.nn.Module, *args) -> None:
    """Both modules give the same outputs and gradients, within what the library promises relative to the largest."""
    name = str(next(theirs.parameters()).dtype).removeprefix("torch.")
    promised = (tolerances.PROMISED_VALUES[name], tolerances.PROMISED_GRADIENTS[name])
    for found, expected, tolerance in zip(results(ours, args), results(theirs, args), promised, strict=True):
        for one, other in zip(found, expected, strict=True):
            largest = max([1.0, *other.detach().abs().flatten().tolist()])
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance * largest)


def twins(*args, **options) -> tuple[fastlstm.torch.LSTM, torch.nn.LSTM]:
    """One of ours and one of theirs with the same parameters."""
    theirs = torch.nn.LSTM(*args, **options)
    ours = fastlstm.torch.LSTM(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def state(module: torch.nn.LSTM, rows: int) -> tuple[Tensor, Tensor]:
    """A random state of a batch of `rows`."""
    shape = (module.num_layers * (1 + module.bidirectional), rows)
    dtype = module.weight_ih_l0.dtype
    sizes = module.proj_size or module.hidden_size, module.hidden_size
    return torch.randn(*shape, sizes[0], dtype=dtype), torch.randn(*shape, sizes[1], dtype=dtype)
