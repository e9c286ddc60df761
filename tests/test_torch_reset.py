"""Sequences that begin anew at some steps: `reset` of the PyTorch layer, and policies that loop over steps for it."""

from __future__ import annotations

import copy
import itertools

import pytest
import tolerances
import torch

import fastlstm.torch
from fastlstm import reference

T, B = 9, 4


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def starts(kind: str) -> torch.Tensor:
    """Where sequences begin, (T, B)."""
    chosen = torch.zeros(T, B, dtype=torch.bool)
    if kind == "at first":
        chosen[0, 1:3] = True
    elif kind != "never":
        chosen = torch.rand(T, B) < {"seldom": 0.2, "often": 0.7, "always": 2.0}[kind]
    return chosen


@pytest.mark.parametrize("kind", ["never", "at first", "seldom", "often", "always"])
def test_values_and_gradients_are_the_references(kind: str) -> None:
    for layers, both, first in itertools.product((1, 2), (False, True), (False, True)):
        options = {"num_layers": layers, "bidirectional": both, "batch_first": first, "dtype": torch.float64}
        module, reset = fastlstm.torch.LSTM(5, 7, **options), starts(kind)
        x, h, c = torch.randn(T, B, 5), *(torch.randn(layers * (1 + both), B, 7) for _ in "hc")
        x, h, c = (tensor.double().requires_grad_() for tensor in (x, h, c))
        given = (x.transpose(0, 1), reset.t().float()) if first else (x, reset)
        y, (h_n, c_n) = module(given[0], (h, c), reset=given[1])
        outputs = (y.transpose(0, 1) if first else y, h_n, c_n)
        weights = [torch.randn_like(out) for out in outputs]
        found = torch.autograd.grad(outputs, [x, h, c, *module.parameters()], weights)
        expected, (h_ref, c_ref), tape = reference.forward(
            {name: p.detach().numpy() for name, p in module.named_parameters()}, x.detach().numpy(),
            (h.detach().numpy(), c.detach().numpy()), num_layers=layers, bidirectional=both, reset=reset.numpy(),
        )  # fmt: skip
        for one, other in zip(outputs, (expected, h_ref, c_ref), strict=True):
            torch.testing.assert_close(
                one.detach(), torch.from_numpy(other), rtol=0, atol=tolerances.PROMISED_VALUES["float64"]
            )
        dx, dstate, grads = reference.backward(tape, weights[0].numpy(), (weights[1].numpy(), weights[2].numpy()))
        wanted = [dx, *dstate, *(grads[name] for name, _ in module.named_parameters())]
        for one, other in zip(found, map(torch.from_numpy, wanted), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=tolerances.PROMISED_GRADIENTS["float64"] * 10)


def test_what_came_before_has_no_influence() -> None:
    module, x, reset = fastlstm.torch.LSTM(5, 7), torch.randn(T, B, 5), torch.zeros(T, B)
    reset[4] = 1
    h = torch.full((1, B, 7), torch.nan)
    x[:4] = torch.nan
    y, _ = module(x, (h, h), reset=reset)
    assert torch.equal(y[4:], module(x[4:])[0]) and y[:4].isnan().all()
    reset[0] = 1
    assert torch.equal(module(x[4:], (h, h), reset=reset[:5])[0][:1], module(x[4:5])[0])


def test_a_single_sequence() -> None:
    for first in (False, True):
        module, x = fastlstm.torch.LSTM(5, 7, batch_first=first), torch.randn(6, 5)
        y, (h_n, _) = module(x, reset=torch.tensor([0, 0, 1, 0, 0, 0]))
        assert torch.equal(y, torch.cat([module(x[:2])[0], module(x[2:])[0]])) and torch.equal(h_n[0], y[-1])


@pytest.mark.parametrize(
    ("reset", "kind", "message"),
    [
        (torch.zeros(B, T), ValueError, r"reset must have the shape \(9, 4\) of input's steps, but has \(4, 9\)"),
        ([0] * T, TypeError, "reset must be a tensor, but was list"),
    ],
)
def test_wrong_resets_are_named(reset: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fastlstm.torch.LSTM(5, 7)(torch.randn(T, B, 5), reset=reset)


def test_packed_input_takes_none() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(3, 5), torch.randn(2, 5)])
    with pytest.raises(ValueError, match="reset must be None where input is a PackedSequence"):
        fastlstm.torch.LSTM(5, 7)(packed, reset=torch.zeros(3, 2))


@pytest.mark.filterwarnings("ignore")  # of the frameworks
def test_a_recurrent_policy_runs_in_one_call() -> None:
    import gymnasium
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    spaces = gymnasium.spaces.Box(-1, 1, (3,)), gymnasium.spaces.Discrete(2)
    theirs = RecurrentActorCriticPolicy(*spaces, lambda _: 1e-3, lstm_hidden_size=16)
    ours = copy.deepcopy(theirs)
    assert fastlstm.torch.accelerate(ours).swapped == ["lstm_actor", "lstm_critic", "_process_sequence"]
    state = RNNStates(*((torch.randn(1, B, 16), torch.randn(1, B, 16)) for _ in range(2)))
    x, actions = torch.randn(B * T, 3), torch.randint(2, (B * T,))
    for kind in ("never", "at first", "often"):
        reset = starts(kind).t().reshape(-1).float()
        found = []
        for policy in (ours, theirs):
            policy.zero_grad()
            outputs = policy.evaluate_actions(x, actions, state, reset)
            sum(out.square().sum() for out in outputs).backward()
            found.append([*outputs, *(p.grad for p in policy.parameters())])
        torch.testing.assert_close(*found, rtol=0, atol=tolerances.PROMISED_GRADIENTS["float32"])


def test_a_policy_whose_lstm_was_left_keeps_its_loop() -> None:
    class Subclass(torch.nn.LSTM):
        pass

    policy = type("RecurrentActorCriticPolicy", (torch.nn.Module,), {"_process_sequence": staticmethod(len)})
    policy.__module__ = "sb3_contrib.common.recurrent.policies"
    module = policy()
    module.lstm = Subclass(3, 4)
    assert not fastlstm.torch.accelerate(module).swapped and module._process_sequence is len
    module.lstm = torch.nn.LSTM(3, 4)
    assert fastlstm.torch.accelerate(module).swapped == ["lstm", "_process_sequence"]
