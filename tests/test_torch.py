"""The PyTorch adapter against torch.nn: PyTorch's own samples, every option, what PyTorch's tools do to modules."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.testing._internal import common_modules
from torch.utils.data import DataLoader, Dataset
from torch_case import assert_same, flat, state, twins

import fastlstm
import fastlstm.torch
from fastlstm.runtime import reuse
from fastlstm.torch import memory, operator, packs
from fastlstm.torch import passes as torch_passes

ROOT = Path(__file__).parent.parent
DTYPES = [torch.float32, torch.float64]
SAMPLES = {"nn.LSTM": (torch.nn.LSTM, fastlstm.torch.LSTM), "nn.LSTMCell": (torch.nn.LSTMCell, fastlstm.torch.LSTMCell)}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
INFOS = {info.name: info for info in common_modules.module_db if info.name in SAMPLES}


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same parameters and samples in every run."""
    torch.manual_seed(0)


# --- PyTorch's own samples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "count"), [("nn.LSTM", 32), ("nn.LSTMCell", 2)])
def test_module_info_samples(name: str, count: int, training: bool, dtype: torch.dtype) -> None:
    theirs, ours = SAMPLES[name]
    samples = INFOS[name].module_inputs_func(INFOS[name], "cpu", dtype, True, training)
    for sample in samples:
        args, options = sample.constructor_input.args, {**sample.constructor_input.kwargs, "dtype": dtype}
        expected = theirs(*args, **options).train(training)
        module = ours(*args, **options).train(training)
        module.load_state_dict(expected.state_dict())
        inputs = sample.forward_input.args
        assert_same(module, expected, *inputs)
        reference = sample.reference_fn(module, *inputs)  # the sample's own: as a batch of one
        torch.testing.assert_close(flat(module(*inputs)), flat(reference), rtol=0, atol=0)
    assert len(samples) == count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "count"), [("nn.LSTM", 14), ("nn.LSTMCell", 4)])
def test_module_info_errors(name: str, count: int, dtype: torch.dtype) -> None:
    entries = INFOS[name].module_error_inputs_func(INFOS[name], "cpu", dtype, False, False)
    for entry in entries:
        given = entry.module_error_input
        args, options = given.constructor_input.args, given.constructor_input.kwargs
        options = options if name == "nn.LSTM" else {**options, "dtype": dtype}
        if entry.error_on is common_modules.ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(entry.error_type, match=entry.error_regex):
                SAMPLES[name][1](*args, **options)
        else:
            module = SAMPLES[name][1](*args, **options)
            with pytest.raises(entry.error_type, match=entry.error_regex):
                module(*given.forward_input.args, **given.forward_input.kwargs)
    assert len(entries) == count


# --- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["batch", "packed", "single"])
@pytest.mark.parametrize("layers", [1, 2])
def test_every_option(layers: int, kind: str, dtype: torch.dtype) -> None:
    for batch_first, bidirectional, bias, stateful, projected in itertools.product([False, True], repeat=5):
        options = {"num_layers": layers, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
        options["proj_size"] = 3 * projected
        ours, theirs = twins(5, 7, dropout=0.3 if layers > 1 else 0.0, dtype=dtype, **options)
        x, hx = torch.randn(6, 6, 5, dtype=dtype), state(theirs, 6) if stateful else None
        if kind == "packed":
            x = pack_padded_sequence(x, [3, 6, 6, 1, 3, 5], batch_first=batch_first, enforce_sorted=False)
        if kind == "single":
            x, hx = x[0], None if hx is None else (hx[0][:, 0], hx[1][:, 0])
        assert_same(ours, theirs, x, hx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [None, 1, 5])
def test_cell(rows: int | None, dtype: torch.dtype) -> None:
    for bias, stateful in itertools.product([False, True], repeat=2):
        ours, theirs = (kind(5, 7, bias, dtype=dtype) for kind in (fastlstm.torch.LSTMCell, torch.nn.LSTMCell))
        ours.load_state_dict(theirs.state_dict())
        shape = () if rows is None else (rows,)
        hx = tuple(torch.randn(*shape, 7, dtype=dtype) for _ in "hc") if stateful else None
        assert_same(ours, theirs, torch.randn(*shape, 5, dtype=dtype), hx)


def test_dropout_draws_what_torch_draws() -> None:
    ours, theirs = twins(5, 64, num_layers=3, dropout=0.5, bidirectional=True)
    x = torch.randn(4, 3, 5)
    for training in (True, False):
        outputs = []
        for module in (ours.train(training), theirs.train(training)):
            torch.manual_seed(3)
            outputs.append((module(x)[0], torch.rand(2)))  # as many numbers were drawn as torch draws
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    plain = ours(x)[0]
    assert not torch.allclose(ours.train()(x)[0], plain, atol=1e-2)


def test_gradcheck() -> None:
    module = fastlstm.torch.LSTM(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    shapes = ((3, 2, 3), (4, 2, 4), (4, 2, 4))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    names = [name for name, _ in module.named_parameters()]

    def run(x, h, c, *parameters):
        y, (h_n, c_n) = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, (h, c)))
        return y, h_n, c_n

    assert torch.autograd.gradcheck(run, (*inputs, *module.parameters()))
    sizes = torch.tensor([2, 2, 1])
    packed = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda data: module(PackedSequence(data, sizes))[0].data, packed)


@pytest.mark.parametrize("part", ["y", "h_n", "c_n"])
def test_gradient_of_one_output(part: str) -> None:
    found = []
    for module in twins(3, 4, bidirectional=True):
        y, (h_n, c_n) = module(torch.linspace(-1, 1, 18).reshape(3, 2, 3))
        {"y": y, "h_n": h_n, "c_n": c_n}[part].sum().backward()  # the gradient is an expanded scalar
        found.append([p.grad for p in module.parameters()])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_strided_tensors() -> None:
    ours, theirs = twins(5, 7)
    base = torch.randn(8, 5, 6)
    swapped, wide = base.transpose(1, 2), torch.randn(4, 3, 10)
    one = torch.randn(1, 5)  # all rows in one place
    for x in (swapped, swapped[::2], one.expand(4, 3, 5), one.expand(40, 1, 5), wide[..., ::2], wide[..., 2:7]):
        assert_same(ours, theirs, x)
    for module in (ours, theirs):
        module.weight_ih_l0 = torch.nn.Parameter(torch.linspace(-1, 1, 140).reshape(5, 28).t())
    assert_same(ours, theirs, torch.randn(4, 3, 5))


def test_nothing_is_copied() -> None:
    x = torch.randn(4, 3, 5)
    for tensor, batch_first in ((x, False), (x.transpose(0, 1), True)):
        view = torch_passes._view(tensor, batch_first)
        assert view.__array_interface__["data"][0] == x.data_ptr() and view.shape == (4, 3, 5)
    assert packs.array_of(x).__array_interface__["data"][0] == x.data_ptr()


def test_empty_batch() -> None:
    ours, theirs = twins(3, 4, bidirectional=True)
    assert_same(ours, theirs, torch.zeros(2, 0, 3))


def test_training_follows_torch() -> None:
    losses = []
    for module in twins(4, 16, num_layers=2, batch_first=True):
        head = torch.nn.Linear(16, 1)
        torch.nn.init.constant_(head.weight, 0.1), torch.nn.init.zeros_(head.bias)
        optimizer = torch.optim.SGD([*module.parameters(), *head.parameters()], lr=0.5)
        losses.append([])
        for step in range(8):
            x = torch.randn(8, 6, 4, generator=torch.Generator().manual_seed(step))
            loss = (head(module(x)[0][:, -1]) - x.mean((1, 2))[:, None]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


# --- the module as PyTorch's tools see it -----------------------------------------------------------------------------


def test_constructor_attributes_and_repr() -> None:
    options = {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.25, "bidirectional": True}
    torch.manual_seed(0)
    ours = fastlstm.torch.LSTM(5, 7, **options)
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 7, **options)
    assert repr(ours) == repr(theirs)
    for name in ("input_size", "hidden_size", "proj_size", "mode", *options):
        assert getattr(ours, name) == getattr(theirs, name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)  # the same seed gives the same parameters
    theirs.load_state_dict(ours.state_dict())
    assert [len(names) for names in ours.all_weights] == [len(names) for names in theirs.all_weights]
    with pytest.warns(UserWarning, match="dropout option"):
        fastlstm.torch.LSTM(3, 4, dropout=0.5)


def test_copies_and_pickles() -> None:
    module, x = fastlstm.torch.LSTM(5, 7, num_layers=2), torch.randn(3, 2, 5)
    expected = module(x)[0]
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).share_memory()]
    for other in (*copies, loaded):
        other.flatten_parameters()
        assert torch.equal(other(x)[0], expected)
        other.double().float()
        assert torch.equal(other(x)[0], expected)


@pytest.mark.parametrize("rows", [1, 17, 100])
@pytest.mark.parametrize("H", [37, 65])
def test_steps_have_the_bits_of_one_call(H: int, rows: int) -> None:
    """Those of one step read the weights where they lie, whatever is in a row of the state."""
    module, x = fastlstm.torch.LSTM(30, H), torch.randn(4, rows, 30)
    for value in (1.0, torch.inf, torch.nan, 1e30):
        given = state(module, rows)
        given[0][0, rows // 2, H - 2] = value
        for training in (False, True):
            with torch.set_grad_enabled(training):
                y, after, found = module(x, given)[0], given, []
                for step in x:
                    one, after = module(step[None], after)
                    found.append(one)
            torch.testing.assert_close(torch.cat(found), y, rtol=0, atol=0, equal_nan=True)


def test_changed_parameters_are_seen() -> None:
    ours, theirs = twins(5, 7)
    x = torch.randn(3, 2, 5)
    ours(x)
    changes = (
        lambda p: p.data.mul_(0.5),
        lambda p: p.detach().numpy().__iadd__(0.1),  # torch's own counter of versions does not see this one
        lambda p: p.data.view(-1)[-1:].fill_(3),
    )
    for change in changes:
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            change(p), change(q)
        assert_same(ours, theirs, x)
    for module in (ours, theirs):
        module.bias_hh_l0 = torch.nn.Parameter(torch.ones(28))
    assert_same(ours, theirs, x)


def test_packed_weights_die_with_their_parameters() -> None:
    def one() -> None:
        fastlstm.torch.LSTM(5, 7)(torch.randn(3, 2, 5))

    for _ in range(5):
        one()
        gc.collect()
    alive = [packed for packed in packs._packed.values() if not packed.storage.expired()]
    assert len(packs._packed) <= len(alive) + 1  # the newest is dropped when the next one comes


def test_large_tensors_take_memory_that_earlier_ones_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes no bit: of padded steps, and of a second backward pass over one graph."""
    module, x = fastlstm.torch.LSTM(48, 32, bidirectional=True), torch.randn(60, 32, 48, requires_grad=True)

    def gradients() -> list[Tensor]:
        y = module(x, lengths=torch.arange(32))[0].sum()
        inputs = [x, *module.parameters()]
        return [grad for _ in range(2) for grad in torch.autograd.grad(y, inputs, retain_graph=True)]

    expected, taken, empty = gradients(), [], reuse.empty
    monkeypatch.setattr(memory, "_MAPPED", reuse.LEAST)
    monkeypatch.setattr(reuse, "empty", lambda shape, dtype: taken.append(shape) or empty(shape, dtype))
    for _ in range(3):
        assert all(map(torch.equal, gradients(), expected))
    tape, dx = (2, 60 * 32 * 6 * 32), x.shape
    assert taken == 3 * [tape, *4 * [dx]]  # the gradient of x from each direction, twice


class Encoded(Dataset):
    """Sequences that a worker process runs through a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.module(torch.full((6, 5), float(index)))[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(method: str) -> None:
    data = Encoded(fastlstm.torch.LSTM(5, 64, bidirectional=True))
    here = torch.stack([data[i] for i in range(4)])  # our threads run before the processes are forked
    data.module(torch.randn(50, 32, 5))[0].sum().backward()
    data.module.zero_grad()
    found = next(iter(DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context=method)))
    assert torch.equal(found, here)


def test_ddp_gradients_equal_those_of_one_process() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(ROOT / "examples" / "torch_ddp.py"), "--steps", "3"]
    done = subprocess.run(command + script, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("gradients of 2 processes") and float(first.split()[-1]) < 1e-6
    assert last.startswith("step 3: loss")


# --- errors -----------------------------------------------------------------------------------------------------------


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


BAD_CALLS = [
    ((zeros(3),), ValueError),
    ((zeros(2, 2, 4),), RuntimeError),
    ((zeros(0, 2, 3),), RuntimeError),
    ((zeros(2, 2, 3, dtype=torch.int32),), ValueError),
    ((zeros(2, 2, 3), (zeros(1, 4), zeros(1, 4))), RuntimeError),
    ((zeros(2, 3), (zeros(1, 2, 4), zeros(1, 2, 4))), RuntimeError),
    ((zeros(2, 2, 3), (zeros(1, 3, 4), zeros(1, 2, 4))), RuntimeError),
    ((zeros(2, 2, 3), (zeros(1, 2, 4), zeros(1, 2, 5))), RuntimeError),
    ((zeros(2, 2, 3), (zeros(1, 2, 4, dtype=torch.float64), zeros(1, 2, 4))), RuntimeError),
    ((PackedSequence(zeros(3, 4), torch.tensor([2, 1])),), RuntimeError),
]


@pytest.mark.parametrize(("args", "kind"), BAD_CALLS)
def test_bad_calls_raise_as_torch_does(args: tuple, kind: type[Exception]) -> None:
    for module in twins(3, 4):
        with pytest.raises(kind):
            module(*args)


def test_bad_cell_calls_raise_as_torch_does() -> None:
    for hx in ((zeros(2, 4), zeros(2, 5)), (zeros(2, 4), zeros(3, 4))):
        for module in (torch.nn.LSTMCell(3, 4), fastlstm.torch.LSTMCell(3, 4)):
            with pytest.raises(RuntimeError, match="hidden1"):
                module(zeros(2, 3), hx)
    with pytest.raises(
        RuntimeError, match=r"hx\[1\] must have the weights' dtype torch.float32, but has torch.float64"
    ):
        fastlstm.torch.LSTMCell(3, 4)(zeros(2, 3), (zeros(2, 4), zeros(2, 4, dtype=torch.float64)))
    for module in (torch.nn.LSTMCell(3, 4), fastlstm.torch.LSTMCell(3, 4)):
        with pytest.raises(RuntimeError, match="dtype"):
            module(zeros(2, 3, dtype=torch.float64))


def test_what_it_cannot_do_names_the_way_out() -> None:
    with pytest.raises(NotImplementedError, match=r"must be float32 or float64, but is torch.bfloat16: .*\.float\(\)"):
        fastlstm.torch.LSTM(3, 4).bfloat16()(zeros(2, 2, 3, dtype=torch.bfloat16))
    module = fastlstm.torch.LSTM(3, 4)
    way_out = r"must be on the CPU, but is on cuda:0: .*torch\.nn"
    with FakeTensorMode(), pytest.raises(NotImplementedError, match=way_out):
        module(torch.empty(2, 2, 3, device="cuda"))


def test_tensors_that_do_not_fit_are_never_read() -> None:
    module = fastlstm.torch.LSTM(3, 4)
    module.weight_hh_l0 = torch.nn.Parameter(zeros(16, 3))
    with pytest.raises(RuntimeError, match=r"a weight must be torch.float32 of the shape \(16, 4\), but is"):
        module(zeros(2, 2, 3))
    module = fastlstm.torch.LSTM(3, 4)
    module.bias_ih_l0 = torch.nn.Parameter(zeros(16, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"but is torch\.float64"):
        module(zeros(2, 2, 3))
    module = fastlstm.torch.LSTM(3, 4)
    for sizes in ([2, 1], [2, 1, 2], [2, 2, 2]):
        with pytest.raises(ValueError, match="batch_sizes must"):
            module(PackedSequence(zeros(4, 3), torch.tensor(sizes)))
    for x in (zeros(1, 2, 3), zeros(4, 2, 3), zeros(2, 3)):
        with pytest.raises(RuntimeError, match=r"x must have 3 dimensions and the 5 rows of h_0, but has the shape \("):
            operator.layer(x, zeros(1, 5, 4), zeros(1, 5, 4), [*module.parameters()])
    with pytest.raises(RuntimeError, match=r"x must have 2 dimensions, but has the shape \(2, 1, 3\)"):
        operator.layer(zeros(2, 1, 3), *[zeros(1, 2, 4)] * 2, [*module.parameters()], sizes=torch.tensor([2]))


def test_autocast_keeps_the_parameters_dtype() -> None:
    ours, theirs = twins(3, 4)
    embed = torch.nn.Linear(3, 3)
    x = torch.randn(2, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = ours(embed(x))
    assert y.dtype is torch.float32
    torch.testing.assert_close(y, theirs(embed(x))[0], rtol=0, atol=2e-2)


def test_missing_torch_names_the_extra() -> None:
    script = "import sys; sys.modules['torch'] = None; import fastlstm.torch"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    last = "ModuleNotFoundError: fastlstm.torch needs PyTorch: pip install 'fastlstm[torch]'"
    assert done.stderr.splitlines()[-1] == last
