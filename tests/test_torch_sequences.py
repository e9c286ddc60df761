"""Prepared calls of some steps in PyTorch: the bits of the way that takes all calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.utils.checkpoint

import fastlstm
import fastlstm.torch as ft
from fastlstm.torch import sequences

CASES: list[dict[str, Any]] = [
    {"T": 5, "B": 3, "I": 4, "H": 7},
    {"T": 30, "B": 32, "I": 30, "H": 40, "num_layers": 2},
    {"T": 30, "B": 32, "I": 30, "H": 40, "num_layers": 2, "batch_first": True},
    {"T": 70, "B": 1, "I": 20, "H": 70, "batch_first": True, "bias": False},
    {"T": 9, "B": 40, "I": 70, "H": 130, "dtype": torch.float64},
    {"T": 12, "B": 40, "I": 70, "H": 130, "batch_first": True},
]


def found(lstm: Any, x: Any, state: Any, weight: Any) -> list[Any]:
    """Outputs and gradients of a training step, then the outputs of inference."""
    x = x.clone().requires_grad_()
    h, c = (s.clone().requires_grad_() for s in state)
    y, (h_n, c_n) = lstm(x, (h, c))
    grads = torch.autograd.grad((y * weight).sum() + h_n.sum() + 2 * c_n.sum(), [x, h, c, *lstm.parameters()])
    with torch.no_grad():
        plain, ends = lstm(x, (h, c))
    return [y.detach(), h_n.detach(), c_n.detach(), *grads, plain, *ends]


@contextmanager
def long_way(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in ("forward", "backward", "find"):
            patch.setattr(sequences, name, lambda *_: None)
        patch.setattr(sequences, "remember", lambda *_: None)
        yield


def note(taken: list[tuple[str, bool]], name: str, result: Any) -> Any:
    taken.append((name, result is not None and result is not False))
    return result


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_of_the_long_way(case: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fastlstm.set_num_threads(threads)
    torch.manual_seed(0)
    options = dict(case)
    T, B, I, H = (options.pop(name) for name in "TBIH")
    dtype = options.get("dtype", torch.float32)
    lstm = ft.LSTM(I, H, **options)
    x = torch.randn((B, T, I) if lstm.batch_first else (T, B, I), dtype=dtype)
    state = tuple(torch.randn(lstm.num_layers, B, H, dtype=dtype) for _ in "hc")
    weight = torch.randn((*x.shape[:2], H), dtype=dtype)
    with long_way(monkeypatch):
        expected = found(lstm, x, state, weight)
    taken = []
    for name in ("forward", "backward", "find"):
        way = getattr(sequences, name)
        monkeypatch.setattr(sequences, name, lambda *a, name=name, way=way: note(taken, name, way(*a)))
    for _ in range(3):
        for one, other in zip(found(lstm, x, state, weight), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
            assert one.is_contiguous()
    if threads == 1:
        assert taken[-1] == ("find", True) and ("forward", True) in taken and ("find", False) in taken
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.mul_(0.5)
    changed = found(lstm, x, state, weight)
    with long_way(monkeypatch):
        for one, other in zip(changed, found(lstm, x, state, weight), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_gradients_of_expanded_and_of_no_outputs() -> None:
    torch.manual_seed(0)
    lstm, x = ft.LSTM(5, 6), torch.randn(40, 3, 5)
    y, (_, c_n) = lstm(x)
    (first,) = torch.autograd.grad(y.sum(), [lstm.weight_hh_l0], retain_graph=True)
    (second,) = torch.autograd.grad((y * torch.ones_like(y)).sum(), [lstm.weight_hh_l0], retain_graph=True)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    reference = torch.nn.LSTM(5, 6)
    reference.load_state_dict(lstm.state_dict())
    (found_c,) = torch.autograd.grad(c_n.sum(), [lstm.weight_hh_l0])
    (expected,) = torch.autograd.grad(reference(x)[1][1].sum(), [reference.weight_hh_l0])
    torch.testing.assert_close(found_c, expected)


def test_a_second_way_back_and_weights_elsewhere() -> None:
    torch.manual_seed(0)
    lstm, x = ft.LSTM(5, 40), torch.randn(40, 3, 5)
    for _ in range(3):
        y, _ = lstm(x)
        first = torch.autograd.grad(y.sum(), [*lstm.parameters()], retain_graph=True)
        second = torch.autograd.grad(y.sum(), [*lstm.parameters()])
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    with torch.no_grad():
        expected = lstm(x)[0]
        lstm.weight_hh_l0 = torch.nn.Parameter(lstm.weight_hh_l0.t().contiguous().t())  # the same, in another order
        torch.testing.assert_close(lstm(x)[0], expected, rtol=0, atol=0)
        lstm.load_state_dict({name: 2 * tensor for name, tensor in lstm.state_dict().items()})
        doubled = ft.LSTM(5, 40)
        doubled.load_state_dict(lstm.state_dict())
        torch.testing.assert_close(lstm(x)[0], doubled(x)[0], rtol=0, atol=0)


def like_torch(lstm: Any, x: Any) -> None:
    """Gradients of a layer are torch's."""
    other = torch.nn.LSTM(lstm.input_size, lstm.hidden_size)
    other.load_state_dict(lstm.state_dict())
    found, expected = (torch.autograd.grad(one(x)[0].sum(), [*one.parameters()]) for one in (lstm, other))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
        assert one.is_contiguous()


def test_gradients_of_weights_in_another_order() -> None:
    lstm, x = ft.LSTM(5, 40), torch.randn(40, 3, 5)
    lstm.weight_hh_l0 = torch.nn.Parameter(lstm.weight_hh_l0.detach().t().contiguous().t())
    for _ in range(3):
        like_torch(lstm, x)


@pytest.mark.parametrize("shape", [(40, 3, 5), (5, 3, 5), (1, 3, 5)])
def test_weights_that_lie_elsewhere_when_the_way_back_begins(shape: tuple[int, ...]) -> None:
    lstm, x = ft.LSTM(5, 40), torch.randn(shape)
    expected = torch.autograd.grad(lstm(x)[0].sum(), [*lstm.parameters()])
    for _ in range(3):
        y, _ = lstm(x)
        kept = []
        for parameter in lstm.parameters():
            kept.append(parameter.data)
            parameter.data = parameter.data.clone()
        for old in kept:
            old.fill_(float("nan"))
        for one, two in zip(torch.autograd.grad(y.sum(), [*lstm.parameters()]), expected, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(40, 3, 5), (5, 3, 5), (1, 3, 5)])
def test_checkpoints(shape: tuple[int, ...]) -> None:
    lstm, x = ft.LSTM(5, 40), torch.randn(shape, requires_grad=True)
    state = tuple(torch.zeros(1, 3, 40) for _ in "hc")
    expected = torch.autograd.grad(lstm(x, state)[0].sum(), [x])[0]
    for _ in range(3):
        y = torch.utils.checkpoint.checkpoint(lambda a: lstm(a, state)[0], x, use_reentrant=False)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), [x])[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize(("T", "B", "I", "H"), [(40, 3, 5, 8), (5, 3, 5, 8), (20, 8, 512, 512)])
def test_nothing_is_computed_twice(T: int, B: int, I: int, H: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fastlstm.set_num_threads(1)
    lstm, x, runs = ft.LSTM(I, H), torch.randn(T, B, I), []
    run = sequences.ShortForward.run
    monkeypatch.setattr(sequences.ShortForward, "run", lambda *a: runs.append(1) or run(*a))
    for k in range(3):
        lstm(x)[0].sum().backward()
        assert len(runs) == k + 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
def test_forward_mode_is_refused_by_a_known_call_too() -> None:
    lstm, x = ft.LSTM(5, 6).requires_grad_(False), torch.randn(40, 3, 5)
    lstm(x)
    lstm(x)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode"):
        lstm(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


def test_refusals_of_a_known_call() -> None:
    lstm, x = ft.LSTM(5, 6), torch.randn(40, 3, 5, requires_grad=True)
    for _ in range(3):
        y, _ = lstm(x)
        (dx,) = torch.autograd.grad(y.sum(), [x], create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivative"):
            dx.sum().backward()
