"""Other cells than torch's, and lengths, through the PyTorch layer: the reference's values and gradients."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import tolerances
import torch
from torch import Tensor

import fastlstm
import fastlstm.torch
from fastlstm import reference
from fastlstm.cell import CellSpec

T, B, I, H = 5, 3, 4, 5
# As in test_layer_variants, so that nothing is compiled twice: float64, ragged, in training.
CELLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without bias": {"bias": False},
    "diagonal peephole": {"peephole": "diagonal"},
    "full peephole": {"peephole": "full", "output_peephole": "new"},
    "coupled": {"coupled": True},
    "clip": {"clip": 0.4},
    "projection": {"proj_size": 3},
    "layer norm": {"layer_norm": True},
    "layer norm without bias": {"layer_norm": True, "bias": False},
    "zoneout": {"zoneout": (0.3, 0.2)},
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "recurrent dropout of each step": {"recurrent_dropout": 0.4, "recurrent_dropout_mode": "step"},
    "everything": {
        "layer_norm": True, "proj_size": 3, "peephole": "full", "coupled": True, "zoneout": 0.2, "clip": 1.0,
        "recurrent_dropout": 0.3,
    },
    "everything elementwise": {
        "peephole": "diagonal", "zoneout": (0.1, 0.4), "clip": 1.0, "activations": ("hard_sigmoid", "softsign", "elu"),
        "recurrent_dropout": 0.3, "recurrent_dropout_mode": "step",
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def made(cell: str, **options: Any) -> fastlstm.torch.LSTM:
    """A module in float64 whose parameters are all about 0.5."""
    module = fastlstm.torch.LSTM(I, H, **options, **CELLS[cell], dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def arguments(module: fastlstm.torch.LSTM) -> tuple[Tensor, Tensor, Tensor]:
    runs = module.num_layers * (1 + module.bidirectional)
    shapes = (T, B, I), (runs, B, module.proj_size or H), (runs, B, H)
    x, h, c = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return x, h, c


def ends() -> dict[str, Tensor]:
    return {"lengths": torch.tensor([5, 0, 3]), "reset": torch.rand(T, B) < 0.3}


def drawn_by(module: fastlstm.torch.LSTM, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A mapping that takes what a call draws, as the reference takes it."""
    found, draw, layers = {}, module._masks, itertools.count()

    def masks(*sizes: Any) -> dict[str, Tensor]:
        drawn, k = draw(*sizes), next(layers)
        for name, mask in drawn.items():
            for d, suffix in enumerate(("", "_reverse")[: 1 + module.bidirectional]):
                found[f"{name}_l{k}{suffix}"] = mask.expand(1 + module.bidirectional, -1, -1, -1)[d].numpy()
        return drawn

    monkeypatch.setattr(module, "_masks", masks, raising=False)
    return found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_values_and_gradients_are_the_references(cell: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = made(cell, num_layers=2, bidirectional=True).train(training)
    drawn, (x, h, c), given = drawn_by(module, monkeypatch), arguments(module), ends()
    y, state = module(x, (h, c), **given)
    outputs = (y, *state)
    weights = [torch.randn_like(out) for out in outputs]
    found = torch.autograd.grad(outputs, [x, h, c, *module.parameters()], weights)
    spec = CellSpec(**{"bias": module.bias} | CELLS[cell])
    expected, state_ref, tape = reference.forward(
        {name: p.detach().numpy() for name, p in module.named_parameters()}, x.detach().numpy(),
        (h.detach().numpy(), c.detach().numpy()), spec=spec, num_layers=2, bidirectional=True, masks=drawn,
        **{name: tensor.numpy() for name, tensor in given.items()},
    )  # fmt: skip
    dx, dstate, grads = reference.backward(tape, weights[0].numpy(), (weights[1].numpy(), weights[2].numpy()))
    wanted = [expected, *state_ref, dx, *dstate, *(grads[name] for name, _ in module.named_parameters())]
    for one, other in zip([*outputs, *found], wanted, strict=True):
        allowed = tolerances.PROMISED_GRADIENTS["float64"] * max(1.0, abs(other).max())
        torch.testing.assert_close(one.detach(), torch.from_numpy(other), rtol=0, atol=allowed)
    assert bool(drawn) == ((training and "recurrent_dropout" in CELLS[cell]) or "zoneout" in CELLS[cell])


@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck(cell: str) -> None:
    module, given = made(cell), ends()
    names = [name for name, _ in module.named_parameters()]

    def run(x: Tensor, h: Tensor, c: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(1)  # the same masks for every difference
        named = dict(zip(names, parameters, strict=True))
        y, state = torch.func.functional_call(module, named, (x, (h, c)), given)
        return y, *state

    assert torch.autograd.gradcheck(run, (*arguments(module), *module.parameters()))


@pytest.mark.parametrize("cell", CELLS)
def test_names_and_copies(cell: str) -> None:
    module = made(cell, num_layers=2).eval()
    core = fastlstm.LSTM(I, H, 2, dtype=np.float64, **CELLS[cell])
    core.load_state_dict(module.state_dict())
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {n: a.shape for n, a in core.parameters.items()}
    assert [name for names in module._all_weights for name in names] == list(module.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    expected, _ = module(x, **(given := ends()))
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)
    for one in copies:
        assert torch.equal(one(x, **given)[0], expected)
    for name, value in CELLS[cell].items():
        assert name in repr(module) or value is False


@pytest.mark.filterwarnings("default")  # of the compiler's own imports
def test_compile_and_export() -> None:
    torch._dynamo.reset()
    module, given = made("everything", bidirectional=True), ends()
    compiled, (x, h, c) = torch.compile(module, fullgraph=True, backend="aot_eager"), arguments(module)
    found = []
    for one in (module.eval(), compiled):
        module.zero_grad()
        y, _ = one(x, (h, c), **given)
        y.square().sum().backward()
        found.append([y, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    module.train()
    assert not torch.equal(*(compiled(x, (h, c), **given)[0] for _ in "ab"))  # each call draws its own masks
    exported = torch.export.export(module.eval(), (x.detach(),), given)
    assert torch.equal(exported.module()(x, **given)[0], module(x, **given)[0])


def test_masks_come_from_torchs_generator() -> None:
    module, x, given, found = made("everything"), torch.randn(T, B, I, dtype=torch.float64), ends(), []
    for number in (3, 3, 4):
        torch.manual_seed(number)
        found.append(module(x, **given)[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(module.eval()(x, **given)[0], module(x, **given)[0])


def test_lengths_are_a_packed_batch() -> None:
    lengths = [3, 5, 1]
    for layers, both, first in itertools.product((1, 2), (False, True), (False, True)):
        module = fastlstm.torch.LSTM(I, H, layers, bidirectional=both, batch_first=first)
        x = torch.randn(B, T, I) if first else torch.randn(T, B, I)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, first, enforce_sorted=False)
        y, (h, c) = module(packed)
        expected, _ = torch.nn.utils.rnn.pad_packed_sequence(y, first, total_length=T)
        for given in (lengths, torch.tensor(lengths, dtype=torch.int32)):
            found, state = module(x, lengths=given)
            assert all(map(torch.equal, (found, *state), (expected, h, c)))
    y, (h, _) = module(x[0], lengths=2)
    assert torch.equal(y[:2], module(x[0, :2])[0]) and not y[2:].any()


def test_first_values() -> None:
    module = fastlstm.torch.LSTM(I, H, 2, bidirectional=True, layer_norm=True, forget_bias=3.0)
    parameters = dict(module.named_parameters())
    assert parameters["weight_ln_ih_l1_reverse"].eq(1).all() and parameters["bias_ln_c_l0"].eq(0).all()
    torch.manual_seed(0)
    plain = torch.nn.LSTM(I, H)
    torch.manual_seed(0)
    ours = fastlstm.torch.LSTM(I, H, forget_bias=3.0)
    plain.bias_ih_l0.data[H : 2 * H] += 3
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"peepholes": True}, TypeError, "unknown option 'peepholes': those of a cell are peephole, "),
        ({"clip": -1}, ValueError, "clip must be a number over 0, or None, but was -1"),
        ({"zoneout": 2.0}, ValueError, "zoneout must be a probability between 0 and 1, but was 2.0"),
        ({"coupled": True, "forget_bias": 1.0}, ValueError, "forget_bias must be 0 in a cell that has no bias for"),
        ({"forget_bias": "one"}, TypeError, "forget_bias must be a number"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fastlstm.torch.LSTM(I, H, **options)


@pytest.mark.parametrize(
    ("lengths", "kind", "message"),
    [
        ([1.0] * B, TypeError, "lengths must be integers, but is of torch.float32"),
        ([1, 2], ValueError, r"lengths must have the shape \(B,\) = \(3,\), but has \(2,\)"),
        ([0, 1, T + 1], ValueError, "lengths must lie between 0 and T = 5, but reach from 0 to 6"),
        ([-1, 1, 1], ValueError, "lengths must lie between 0 and T = 5, but reach from -1 to 1"),
    ],
)
def test_wrong_lengths_are_named(lengths: list, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fastlstm.torch.LSTM(I, H)(torch.randn(T, B, I), lengths=lengths)
