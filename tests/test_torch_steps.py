"""Steps that are not put together anew where there was one like them before: no bit changes, nothing is missed."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastlstm.torch
from fastlstm.plan import ROWS
from fastlstm.torch import steps

State = tuple[Tensor, Tensor]
# Packed in digits where the processor has a matrix unit, and read as they lie.
SIZES = [(3, 24, 96), (1, 8, 128), (2, 5, 16), (1, 3, 4)]


def cell(I: int, H: int, B: int, bias: bool = True) -> tuple[torch.nn.Module, Callable[[], tuple[Tensor, State]]]:
    return fastlstm.torch.LSTMCell(I, H, bias), lambda: (torch.randn(B, I), (torch.randn(B, H), torch.randn(B, H)))


def layer(I: int, H: int, B: int, bias: bool = True) -> tuple[torch.nn.Module, Callable[[], tuple[Tensor, State]]]:
    return (
        fastlstm.torch.LSTM(I, H, bias=bias, batch_first=True),
        lambda: (torch.randn(B, 1, I), (torch.randn(1, B, H), torch.randn(1, B, H))),
    )


def flat(found: tuple) -> list[Tensor]:
    """All tensors of what a module returns."""
    return [found] if isinstance(found, Tensor) else [tensor for part in found for tensor in flat(part)]


def anew(module: torch.nn.Module, x: Tensor, state: State) -> list[Tensor]:
    """What a module finds where no step was before."""
    known = dict(steps._known)
    steps._known.clear()
    try:
        return [tensor.clone() for tensor in flat(module(x, state))]
    finally:
        steps._known.clear()
        steps._known.update(known)


def known(module: torch.nn.Module, x: Tensor, state: State, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What it finds as before, not by way of the operator."""
    with monkeypatch.context() as patch:
        for place in ("fastlstm.torch.modules.layer", "fastlstm.torch.lstm_cell.layer"):
            patch.setattr(place, lambda *_, **__: pytest.fail("the operator was called"))
        return flat(module(x, state))


@pytest.fixture(params=itertools.product([cell, layer], SIZES), ids=lambda case: f"{case[0].__name__}-{case[1]}")
def made(request) -> tuple[torch.nn.Module, Callable[[], tuple[Tensor, State]]]:
    """A module of one kind and size, and what draws its arguments."""
    make, (B, I, H) = request.param
    return make(I, H, B)


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    steps._known.clear()
    torch.manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("make", [cell, layer])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_step_as_one_before(make, sizes, bias, context, monkeypatch: pytest.MonkeyPatch) -> None:
    B, I, H = sizes
    module, draw = make(I, H, B, bias)
    with context():
        module(*draw())
        for _ in range(3):
            x, state = draw()
            for found, expected in zip(known(module, x, state, monkeypatch), anew(module, x, state), strict=True):
                assert torch.equal(found, expected) and found.shape == expected.shape


def test_changed_parameters_are_seen(made) -> None:
    module, draw = made
    x, state = draw()
    changes = [
        lambda p: p.data.mul_(0.5),
        lambda p: p.detach().numpy().__iadd__(0.1),
        lambda p: setattr(p, "data", torch.randn_like(p)),
    ]
    with torch.no_grad():
        before = flat(module(x, state))
        for change in changes:
            for parameter in module.parameters():
                change(parameter)
            for _ in range(2):
                after = flat(module(x, state))
                assert all(torch.equal(a, b) for a, b in zip(after, anew(module, x, state), strict=True))
                assert not torch.equal(after[0], before[0])
            before = after


def test_training_between_them(made) -> None:
    """A step without a tape must not write to that of a call before."""
    module, draw = made
    x, state = draw()
    x.requires_grad_()

    def gradient(between: int) -> Tensor:
        total = sum(tensor.sum() for tensor in flat(module(x, state)))
        with torch.no_grad():
            for _ in range(between):
                module(*draw())
        (found,) = torch.autograd.grad(total, x)
        return found

    assert torch.equal(gradient(0), gradient(3))


@pytest.mark.parametrize("make", [cell, layer])
def test_what_is_wrong_is_told_as_ever(make) -> None:
    module, draw = make(8, 128, 2)
    x, (h, c) = draw()
    with torch.no_grad():
        expected = flat(module(x, (h, c)))
        for wrong in (
            (x[..., :7], (h, c)), (x, (h[..., :100], c)), (x, (h, c.double())), (x.double(), (h, c)), (x, h),
        ):  # fmt: skip
            with pytest.raises((RuntimeError, ValueError, IndexError)):
                module(*wrong)
        strided = torch.randn(*x.shape[:-1], 16)[..., ::2].copy_(x)
        for found in (module(strided, (h, c)), module(x, [h, c]), copy.deepcopy(module)(x, (h, c))):
            assert all(torch.equal(a, b) for a, b in zip(flat(found), expected, strict=True))
        double = copy.deepcopy(module).double()
        assert flat(double(x.double(), (h.double(), c.double())))[0].dtype == torch.float64


def test_no_more_are_kept_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_MOST", 3)
    module, _ = cell(4, 8, 1)
    with torch.no_grad():
        for B in range(1, 8):
            module(torch.randn(B, 4), (torch.randn(B, 8), torch.randn(B, 8)))
            assert len(steps._known) == min(B, 3)
    monkeypatch.undo()
    with torch.no_grad():
        for B in range(1, steps._MOST + 9):
            module(torch.randn(B, 4), (torch.randn(B, 8), torch.randn(B, 8)))
    assert len(steps._known) == steps._MOST


def test_zeros_for_biases_stay() -> None:
    """However many other sizes come between."""
    module, draw = cell(3, 8, 2, bias=False)
    x, state = draw()
    with torch.no_grad():
        expected = flat(module(x, state))
        for H in range(9, 40):
            other, like = cell(3, H, 2, bias=False)
            other(*like())
        rubbish = [torch.ones(32) for _ in range(100)]
        assert all(torch.equal(a, b) for a, b in zip(flat(module(x, state)), expected, strict=True)), len(rubbish)


def test_shapes_are_those_of_the_first_time() -> None:
    module, _ = cell(3, 4, 1)
    with torch.no_grad():
        for x, h, c in (((3,), (1, 4), (1, 4)), ((1, 3), (4,), (4,)), ((1, 3), (1, 4), (4,)), ((3,), (4,), (4,))):
            shapes = [
                [found.shape for found in module(torch.randn(x), (torch.randn(h), torch.randn(c)))] for _ in range(2)
            ]
            assert shapes[0] == shapes[1]


def test_parametrised_weights_are_computed_once_a_call() -> None:
    class Counted(torch.nn.Module):
        calls = 0

        def forward(self, w: Tensor) -> Tensor:
            self.calls += 1
            return 2 * w

    for make, name in ((cell, "weight_hh"), (layer, "weight_hh_l0")):
        module, draw = make(3, 4, 2)
        counted = Counted()
        torch.nn.utils.parametrize.register_parametrization(module, name, counted)
        counted.calls = 0
        with torch.no_grad():
            for k in range(1, 4):
                x, state = draw()
                module(x, state)
                assert counted.calls == k


def test_no_rows() -> None:
    module, draw = cell(4, 8, 0)
    with torch.no_grad():
        for _ in range(2):
            h, c = module(*draw())
            assert h.shape == c.shape == (0, 8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [*SIZES, (40, 5, 16)])
@pytest.mark.parametrize("make", [cell, layer])
@pytest.mark.parametrize("of", [(0,), (1,), (-1,), (0, 1, -1)])
def test_gradients_of_a_step_as_one_before(make, sizes, bias, of) -> None:
    """Those of the operator, to the last bit, and once more from the same graph; rows may be many."""
    B, I, H = sizes
    module, draw = make(I, H, B, bias)
    module(*draw())
    x, (h, c) = draw()
    inputs = [tensor.requires_grad_() for tensor in (x, h, c)] + list(module.parameters())

    def gradients() -> list[list[Tensor]]:
        found = flat(module(x, (h, c)))
        total = sum((found[k] * found[k]).sum() for k in of)
        return [list(torch.autograd.grad(total, inputs, retain_graph=True)) for _ in range(2)]

    once = gradients()
    assert len(steps._known) == (B <= ROWS)
    steps._known.clear()
    for found, expected in zip(once, gradients(), strict=True):
        for name, a, b in zip("xhc" + "w" * 4, found, expected, strict=False):
            assert a.shape == b.shape and torch.equal(a, b), name


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, of forward mode
@pytest.mark.parametrize("make", [cell, layer])
def test_what_a_step_as_one_before_refuses(make) -> None:
    module, draw = make(3, 4, 2)
    x, (h, c) = draw()
    x.requires_grad_()
    for _ in range(2):
        (found,) = torch.autograd.grad(flat(module(x, (h, c)))[0].sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivative"):
            found.sum().backward()
        with pytest.raises(NotImplementedError, match="forward mode"), torch.autograd.forward_ad.dual_level():
            module(torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x)), (h, c))
        with pytest.raises(NotImplementedError, match="vmap"):
            torch.func.vmap(module, (None, 0))(x, (torch.stack([h, h]), torch.stack([c, c])))
    y = module(x, (h, c))
    with torch.no_grad():
        next(module.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        flat(y)[0].sum().backward()


def test_steps_between_updates(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are packed anew at the second step after an update; gradients through all steps are the operator's."""
    module, draw = made
    x, state = draw()
    find = steps.find

    def update() -> list[Tensor]:
        after, total = state, torch.zeros(())
        for _ in range(5):
            *y, h, c = flat(module(x, after))
            after, total = (h, c), total + sum(part.square().sum() for part in (*y, h))
        return [h, c, *torch.autograd.grad(total, list(module.parameters()))]

    for k in range(3):
        found = update()
        assert found[0].shape == found[1].shape == state[0].shape
        monkeypatch.setattr(steps, "find", lambda *_: None)
        assert all(torch.equal(a, b) for a, b in zip(found, update(), strict=True)), k
        monkeypatch.setattr(steps, "find", find)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)


@pytest.mark.parametrize("name", ["weight_hh", "bias_ih"])
def test_what_stands_in_a_parameters_place(name: str) -> None:
    """A tensor of the module's own attributes comes before a parameter of that name, as in torch's modules."""
    theirs, ours = torch.nn.LSTMCell(3, 5), fastlstm.torch.LSTMCell(3, 5)
    ours.load_state_dict(theirs.state_dict())
    x, state = torch.randn(2, 3), (torch.randn(2, 5), torch.randn(2, 5))
    with torch.no_grad():
        for _ in range(2):
            ours(x, state)
        for module in (theirs, ours):
            object.__setattr__(module, name, getattr(module, name).detach() * 0.5)
        for found, expected in zip(ours(x, state), theirs(x, state), strict=True):
            torch.testing.assert_close(found, expected)


def test_a_state_is_a_pair() -> None:
    cell, h = fastlstm.torch.LSTMCell(3, 5), torch.zeros(2, 5)
    for given in ((), (h,), (h, h, h)):
        with pytest.raises(RuntimeError, match=rf"hx must be a pair \(h, c\), but has {len(given)} items"):
            cell(torch.zeros(2, 3), given)
