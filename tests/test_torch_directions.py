"""Layers that run backwards, and directions that become one output, through the PyTorch layer."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import tolerances
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import fastlstm
import fastlstm.torch
from fastlstm.directions import MODES

T, B, I, H = 5, 3, 4, 5
WAYS: list[dict[str, Any]] = [{"reverse": True}, *({"bidirectional": True, "merge": mode} for mode in MODES)]
KINDS = ["dense", "batch first", "single", "one step", "packed", "ends"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def made(**options: Any) -> tuple[fastlstm.torch.LSTM, fastlstm.LSTM]:
    """A module in float64, and the library's layer with its parameters."""
    module = fastlstm.torch.LSTM(I, H, **options, dtype=torch.float64)
    layer = fastlstm.LSTM(I, H, **options, dtype=np.float64)
    layer.load_state_dict(module.state_dict())
    return module, layer


def given(kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """x, and what else a call takes."""
    ends = {"lengths": torch.tensor([5, 0, 3]), "reset": torch.rand(T, B) < 0.4}
    shapes = {"batch first": (B, T, I), "single": (T, I), "one step": (1, B, I), "packed": (8, I)}
    x = torch.randn(shapes.get(kind, (T, B, I)), dtype=torch.float64)
    step = {"reset": torch.tensor([[False, True, False]])}
    return x, ends if kind == "ends" else step if kind == "one step" else {}


def parts(y: Any) -> list[Any]:
    """The arrays or tensors of an output."""
    if isinstance(y, PackedSequence | fastlstm.PackedSequence):
        return [y.data]
    return [part for one in y for part in parts(one)] if isinstance(y, tuple) else [y]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_values_and_gradients_are_the_librarys(way: dict[str, Any], kind: str) -> None:
    for layers in (1, 2):
        if layers == 2 and way.get("merge") == "none":
            continue
        module, layer = made(num_layers=layers, batch_first=kind == "batch first", **way)
        (x, options), sizes = given(kind), np.array([3, 2, 2, 1])
        rows = () if kind == "single" else (B,)
        state = [torch.randn(layers * (1 + module.bidirectional), *rows, H, dtype=torch.float64) for _ in "hc"]
        leaves = [tensor.requires_grad_() for tensor in (x, *state)]
        y, states = module(
            PackedSequence(x, torch.from_numpy(sizes)) if kind == "packed" else x, tuple(state), **options
        )
        outputs = [*parts(y), *states]
        weights = [torch.randn_like(out) for out in outputs]
        found = torch.autograd.grad(outputs, [*leaves, *module.parameters()], weights)
        arrays, (*dys, dh, dc) = [t.detach().numpy() for t in leaves], [w.numpy() for w in weights]
        given_x = fastlstm.PackedSequence(arrays[0], sizes) if kind == "packed" else arrays[0]
        expected, states_ref, tape = layer.forward(
            given_x, tuple(arrays[1:]), **{name: tensor.numpy() for name, tensor in options.items()}
        )
        dx, dstate, grads = layer.backward(tape, tuple(dys) if len(dys) > 1 else dys[0], (dh, dc))
        wanted = [*parts(expected), *states_ref, *parts(dx), *dstate, *(grads[n] for n, _ in module.named_parameters())]
        for one, other in zip([*outputs, *found], wanted, strict=True):
            allowed = tolerances.PROMISED_GRADIENTS["float64"] * max(1.0, abs(other).max())
            torch.testing.assert_close(one.detach(), torch.from_numpy(other), rtol=0, atol=allowed)


@pytest.mark.parametrize("batch_first", [False, True])
def test_values_and_gradients_are_torchs(batch_first: bool) -> None:
    """Of torch's layer, with its input and output turned over, or with its directions made one afterwards."""

    def turned(module: torch.nn.LSTM, x: Tensor) -> Tensor:
        time = 1 if batch_first else 0
        return module(x.flip(time))[0].flip(time)

    def halves(module: torch.nn.LSTM, x: Tensor) -> tuple[Tensor, ...]:
        return module(x)[0].chunk(2, dim=-1)

    by_torch = {
        "reverse": turned,
        "concat": lambda module, x: module(x)[0],
        "sum": lambda module, x: sum(halves(module, x)),
        "mul": lambda module, x: torch.mul(*halves(module, x)),
        "ave": lambda module, x: sum(halves(module, x)) / 2,
        "none": lambda module, x: torch.stack(halves(module, x)),
    }
    for way, compute in zip(WAYS, by_torch.values(), strict=True):
        theirs = torch.nn.LSTM(I, H, bidirectional="merge" in way, batch_first=batch_first)
        ours = fastlstm.torch.LSTM(I, H, batch_first=batch_first, **way)
        ours.load_state_dict(theirs.state_dict())
        x, found = torch.randn(7, 6, I, requires_grad=True), []
        for y, module in ((ours(x)[0], ours), (compute(theirs, x), theirs)):
            y = torch.stack(y) if isinstance(y, tuple) else y
            weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
            found.append([y, *torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])])
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("default")  # of the compiler's own imports
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_compile_and_export(way: dict[str, Any]) -> None:
    torch._dynamo.reset()
    module, x = made(num_layers=1 if way.get("merge") == "none" else 2, **way)[0], given("dense")[0]
    compiled, found = torch.compile(module, fullgraph=True, backend="aot_eager"), []
    for one in (module, compiled):
        module.zero_grad()
        y = parts(one(x)[0])
        sum(part.square().sum() for part in y).backward()
        found.append([*y, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    exported = torch.export.export(module.eval(), (x,)).module()
    assert all(map(torch.equal, parts(exported(x)[0]), parts(module(x)[0])))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_names_shapes_and_copies(way: dict[str, Any]) -> None:
    for layers, cell in itertools.product((1, 2), ({}, {"peephole": "diagonal"})):
        if layers == 2 and way.get("merge") == "none":
            continue
        module, layer = made(num_layers=layers, **way, **cell)
        shapes = {name: tuple(p.shape) for name, p in module.state_dict().items()}
        assert shapes == {name: array.shape for name, array in layer.parameters.items()}
        if not cell and (layers == 1 or way.get("merge", "concat") == "concat"):
            torch.nn.LSTM(I, H, layers, bidirectional="merge" in way).load_state_dict(module.state_dict())
        x = given("dense")[0]
        assert all(map(torch.equal, parts(copy.deepcopy(module)(x)[0]), parts(module(x)[0])))
        told = "reverse=True" if "reverse" in way else f"merge={way['merge']!r}"
        assert (told in repr(module)) == (told != "merge='concat'")


def test_halves_can_be_changed_in_place() -> None:
    module = fastlstm.torch.LSTM(I, H, bidirectional=True, merge="none")
    (forth, back), _ = module(torch.randn(1, 1, I))
    forth.add_(1), back.mul_(2)
    (forth.sum() + back.sum()).backward()
    assert module.bias_ih_l0.grad.any() and module.bias_ih_l0_reverse.grad.any()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"reverse": True, "bidirectional": True}, ValueError, "reverse must be False where bidirectional is True"),
        ({"reverse": "yes"}, TypeError, "reverse must be True or False, but was 'yes'"),
        ({"merge": "sum"}, ValueError, "merge must be 'concat' where bidirectional is False, but was 'sum'"),
        ({"merge": "max", "bidirectional": True}, ValueError, "merge must be one of .*, but was 'max'"),
        (
            {"merge": "none", "bidirectional": True, "num_layers": 2}, ValueError,
            "merge must not be 'none' where a layer feeds another: num_layers must be 1",
        ),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fastlstm.torch.LSTM(I, H, **options)


def test_two_directions_are_not_reverse_for_the_operator_either() -> None:
    module, state = fastlstm.torch.LSTM(I, H, bidirectional=True), torch.zeros(2, B, H)
    with pytest.raises(RuntimeError, match="h_0 must be of one direction, or of two that are not reverse, but is of 2"):
        fastlstm.torch.operator.layer(torch.zeros(T, B, I), state, state, [*module.parameters()], reverse=True)
