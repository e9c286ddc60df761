"""The PyTorch operator under autograd, the compiler, export and `torch.func`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import library
from torch.nn.utils.rnn import pack_padded_sequence
from torch_case import assert_same, state, twins

import fastlstm.torch
from fastlstm.torch import passes


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same parameters and samples in every run."""
    torch.manual_seed(0)


def test_backward_twice_over_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one tape."""
    module, x = fastlstm.torch.LSTM(3, 4, bidirectional=True), torch.randn(3, 2, 3, requires_grad=True)
    loss = module(x)[0].square().sum()
    monkeypatch.delattr(passes, "forward")
    first = torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x, *module.parameters()])
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("steps", [3, 20])  # few rows have a way of their own
def test_a_mask_of_h_in_the_plain_cell(steps: int) -> None:
    shapes = (steps, 2, 3), (1, 2, 4), (1, 2, 4), (16, 3), (16, 4), (16,), (16,)
    x, h, c, *weights = (0.5 * torch.randn(shape, dtype=torch.float64) for shape in shapes)
    mask, found = 2.0 * torch.randint(0, 2, (1, 1, 2, 4)), []
    for name in ("ours", "theirs"):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, h, c, *weights)]
        if name == "ours":
            outputs = fastlstm.torch.operator.layer(*leaves[:3], leaves[3:], recurrent=mask.double())
        else:
            ys, state = [], (leaves[1][0], leaves[2][0])
            for x_t in leaves[0]:
                state = torch.lstm_cell(x_t, (mask[0, 0] * state[0], state[1]), *leaves[3:])
                ys.append(state[0])
            outputs = torch.stack(ys), state[0][None], state[1][None]
        found.append([*outputs, *torch.autograd.grad(sum(out.square().sum() for out in outputs), leaves)])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_second_derivative_is_refused() -> None:
    module, x = fastlstm.torch.LSTM(3, 4), torch.randn(3, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivative: use torch\.nn\.LSTM"):
        gradient.sum().backward()


@pytest.mark.filterwarnings("default")  # jvp's own
def test_forward_mode_and_vmap_are_refused() -> None:
    module, x = fastlstm.torch.LSTM(3, 4), torch.randn(3, 2, 3)
    with pytest.raises(NotImplementedError, match=r"no derivative in forward mode: use torch\.nn\.LSTM"):
        torch.func.jvp(lambda one: module(one)[0], (x,), (x,))
    with pytest.raises(NotImplementedError, match="no vmap: make the axis a part of the batch's"):
        torch.func.vmap(lambda one: module(one)[0])(x[None])


def test_parameters_changed_between_forward_and_backward() -> None:
    module = fastlstm.torch.LSTM(3, 4)
    loss = module(torch.randn(3, 2, 3))[0].sum()
    with torch.no_grad():
        module.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.filterwarnings("default")  # of the compiler's own imports
@pytest.mark.parametrize(("backend", "batches"), [("aot_eager", (3, 4, 5)), ("inductor", (3,))])
def test_compile(backend: str, batches: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # a graph from disk would hide today's operators
    torch._dynamo.reset()
    ours, theirs = twins(5, 7, num_layers=2, bidirectional=True, batch_first=True)
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    for rows in batches:  # the second makes it compile anew, for any number of rows
        x = torch.randn(rows, 6, 5)
        assert_same(compiled, theirs, x, state(theirs, rows))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), theirs(x))


@pytest.mark.filterwarnings("default")
def test_compile_packed() -> None:
    torch._dynamo.reset()
    ours, theirs = twins(5, 7, bidirectional=True)
    packed = pack_padded_sequence(torch.randn(6, 3, 5), [6, 4, 4])
    assert_same(torch.compile(ours, fullgraph=True, backend="aot_eager"), theirs, packed)


@pytest.mark.filterwarnings("default")
def test_export() -> None:
    ours, theirs = twins(5, 7, num_layers=2, bidirectional=True, batch_first=True)
    x, dim = torch.randn(3, 4, 5), torch.export.Dim
    exported = torch.export.export(ours.eval(), (x,), dynamic_shapes=({0: dim("rows"), 1: dim("steps")},))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    x = torch.randn(5, 9, 5)
    for program in (exported, torch.export.load(file)):
        torch.testing.assert_close(program.module()(x), theirs(x))


@pytest.mark.filterwarnings("default")
def test_trace_without_gradients() -> None:
    ours, x = fastlstm.torch.LSTM(5, 7, num_layers=2, bidirectional=True), torch.randn(4, 3, 5)
    with torch.no_grad():
        traced, other = torch.jit.trace(ours, (x,)), torch.randn(6, 2, 5)
        assert torch.equal(traced(other)[0], ours(other)[0])


@pytest.mark.filterwarnings("default")
def test_operators_keep_torchs_rules() -> None:
    weights = [torch.randn(shape, requires_grad=True) for shape in ((28, 5), (28, 7), (28,), (28,))]
    batch = (torch.randn(4, 3, 5, requires_grad=True), torch.randn(1, 3, 7), torch.randn(1, 3, 7))
    packed = (torch.randn(5, 5), torch.randn(1, 2, 7), torch.randn(1, 2, 7))
    sizes, reset = torch.tensor([2, 2, 1]), torch.rand(4, 3) < 0.5
    lengths = torch.tensor([4, 4, 4])  # of shorter rows the tape has parts that nobody writes, which it would compare
    zoned = '{"zoneout": [0.1, 0.2]}', torch.rand(1, 4, 3, 7), torch.rand(1, 1, 1, 7)
    for inputs, ends, (cell, *zoneout) in (
        (batch, [None] * 3, ("", None, None)),
        (packed, [sizes, None, None], ("", None, None)),
        (batch, [None, lengths, reset], zoned),
    ):
        args = (*inputs, *ends, None, *zoneout, True, False, False, False, cell, True, weights)
        assert set(library.opcheck(torch.ops.fastlstm.lstm.default, args).values()) == {"SUCCESS"}


def test_functional_call_and_grad() -> None:
    ours, theirs = twins(5, 7, num_layers=2)
    x = torch.randn(3, 4, 5)
    parameters = {name: 2 * p.detach() for name, p in ours.named_parameters()}
    found = []
    for module in (ours, theirs):
        found.append(torch.func.functional_call(module, parameters, (x,)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    gradients = torch.func.grad(lambda p: torch.func.functional_call(ours, p, (x,))[0].square().sum())(parameters)
    theirs.load_state_dict(parameters)
    theirs(x)[0].square().sum().backward()
    torch.testing.assert_close(gradients, {name: p.grad for name, p in theirs.named_parameters()}, rtol=1e-5, atol=1e-5)
