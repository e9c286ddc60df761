"""Swapping the recurrent modules of a PyTorch model, in place."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastlstm.torch.lstm_cell import LSTMCell
from fastlstm.torch.modules import LSTM, State, why_not

__all__ = ["Report", "accelerate"]


@dataclass
class Report:
    """What `accelerate` did."""

    swapped: list[str] = field(default_factory=list)
    """Names of the modules that fastlstm computes now, as in `model.named_modules()`."""
    left: dict[str, str] = field(default_factory=dict)
    """Names of the recurrent modules that were left as they were, each with the reason."""

    def __str__(self) -> str:
        """A line for each module."""
        lines = [f"swapped {name or '(the model itself)'}" for name in self.swapped]
        lines += [f"left    {name or '(the model itself)'}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines) or "no recurrent module found"


def accelerate(model: torch.nn.Module) -> Report:
    """Let fastlstm compute every `torch.nn.LSTM` of a model, in place.

    A module changes its class and keeps all else: its parameters, its names in `state_dict()`, its hooks, its mode, and
    every reference to it. What this library cannot compute is left as it was: subclasses (their `forward` may be
    another), modules on other devices or of other types than float32 and float64. Other recurrent modules
    are left too, among them `torch.nn.LSTMCell`: a step that torch calls by itself gains little; use
    `fastlstm.torch.LSTMCell` where it does. A recurrent policy of sb3-contrib, which loops over the steps of a batch
    where an episode begins, runs them in one call instead (`reset` of `LSTM.forward`).

    Parameters
    ----------
    model
        Any module, also an LSTM itself.

    Returns
    -------
    Report
        What was swapped, and what was left and why; `print` it.

    Raises
    ------
    TypeError
        If `model` is no `torch.nn.Module`.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but was {type(model).__name__}")
    report = Report()
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase) or isinstance(module, LSTM | LSTMCell):
            continue
        if reason := _why_left(module):
            report.left[name] = reason
        else:
            module.__class__ = LSTM
            report.swapped.append(name)
    for name, module in model.named_modules():
        if _loops_over_resets(module):
            module._process_sequence = _process_sequence
            report.swapped.append(f"{name}._process_sequence".lstrip("."))
    return report


def _loops_over_resets(module: torch.nn.Module) -> bool:
    """Whether a module is a policy of sb3-contrib, which runs its LSTM step by step where an episode begins, if all its
    LSTMs are of this library.
    """
    if not all(isinstance(part, LSTM) for part in module.modules() if isinstance(part, torch.nn.RNNBase)):
        return False
    home = "sb3_contrib.common.recurrent.policies"
    for kind in type(module).__mro__:
        if "_process_sequence" in vars(kind):  # unless a subclass has its own
            return (kind.__module__, kind.__name__) == (home, "RecurrentActorCriticPolicy")
    return False


def _process_sequence(
    features: Tensor, lstm_states: State, episode_starts: Tensor, lstm: torch.nn.LSTM
) -> tuple[Tensor, State]:
    """What that policy's method of this name computes, in one call: features (B * T, I), starts (B * T,)."""
    rows = lstm_states[0].shape[1]
    x = features.reshape(rows, -1, lstm.input_size).transpose(0, 1)
    y, states = lstm(x, lstm_states, reset=episode_starts.reshape(rows, -1).t())
    return y.transpose(0, 1).flatten(0, 1), states


def _why_left(module: torch.nn.Module) -> str:
    """Why `accelerate` leaves a recurrent module; empty if it swaps it."""
    kind = type(module).__name__
    if type(module) is not torch.nn.LSTM:
        subclass = isinstance(module, torch.nn.LSTM)
        return f"{kind} is a subclass, which may compute something else" if subclass else f"{kind} is no torch.nn.LSTM"
    for name, parameter in module.named_parameters():
        if reason := why_not(parameter):
            return f"{name} must be {reason}"
    return ""
