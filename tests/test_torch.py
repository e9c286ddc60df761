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
import tolerances
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.testing._internal import common_modules
from torch.utils.data import DataLoader, Dataset

import fastlstm
import fastlstm.torch
from fastlstm.torch import passes as torch_passes

ROOT = Path(__file__).parent.parent
DTYPES = [torch.float32, torch.float64]
SAMPLES = {"nn.LSTM": (torch.nn.LSTM, fastlstm.torch.LSTM), "nn.LSTMCell": (torch.nn.LSTMCell, fastlstm.torch.LSTMCell)}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
INFOS = {info.name: info for info in common_modules.module_db if info.name in SAMPLES}


def flat(value) -> list[Tensor]:
    """The tensors of an output or input, in order."""
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in flat(part)]


def leaves(value):
    """A copy of inputs whose tensors want gradients."""
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.detach().clone().requires_grad_())
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_()
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


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same parameters and samples in every run."""
    torch.manual_seed(0)


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
    for x in (swapped, swapped[::2], torch.randn(1, 5).expand(4, 3, 5), wide[..., ::2], wide[..., 2:7]):
        assert_same(ours, theirs, x)
    for module in (ours, theirs):
        module.weight_ih_l0 = torch.nn.Parameter(torch.linspace(-1, 1, 140).reshape(5, 28).t())
    assert_same(ours, theirs, torch.randn(4, 3, 5))


def test_nothing_is_copied() -> None:
    x = torch.randn(4, 3, 5)
    for tensor, batch_first in ((x, False), (x.transpose(0, 1), True)):
        view = torch_passes._view(tensor, batch_first)
        assert view.__array_interface__["data"][0] == x.data_ptr() and view.shape == (4, 3, 5)
    assert torch_passes._array(x).__array_interface__["data"][0] == x.data_ptr()


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


# --- autograd's and the compiler's machinery --------------------------------------------------------------------------


def test_backward_twice_over_one_graph() -> None:
    module, x = fastlstm.torch.LSTM(3, 4, bidirectional=True), torch.randn(3, 2, 3, requires_grad=True)
    loss = module(x)[0].square().sum()
    first = torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x, *module.parameters()])
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


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
        args = (*inputs, *ends, None, *zoneout, True, False, False, cell, True, weights)
        assert set(torch.library.opcheck(torch.ops.fastlstm.lstm_layer.default, args).values()) == {"SUCCESS"}


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
    alive = [storage for *_, storage in torch_passes._packed.values() if not storage.expired()]
    assert len(torch_passes._packed) <= len(alive) + 1  # the newest is dropped when the next one comes


def test_threads_are_the_least_of_both_settings() -> None:
    before, ours = torch.get_num_threads(), fastlstm.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch_passes._threads() == 1
        fastlstm.torch.LSTM(64, 64)(torch.randn(20, 16, 64))[0].sum().backward()
        assert (torch.get_num_threads(), fastlstm.get_num_threads()) == (1, ours)
        torch.set_num_threads(64)
        assert torch_passes._threads() == ours
    finally:
        torch.set_num_threads(before)


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


# --- accelerate -------------------------------------------------------------------------------------------------------

# (who, I, H, options): layers of public models.
SHAPES = [
    ("sb3-contrib RecurrentPPO", 64, 256, {}),
    ("silero-vad", 128, 128, {}),
    ("DeepAR", 40, 40, {"num_layers": 2, "dropout": 0.1, "batch_first": True}),
    ("Darts RNNModel", 1, 25, {"batch_first": True}),
    ("NeuralForecast LSTM", 2, 128, {"num_layers": 2, "batch_first": True}),
    ("neuralhydrology", 27, 128, {}),
    ("EasyOCR CRNN", 512, 256, {"bidirectional": True, "batch_first": True}),
    ("docTR CRNN", 512, 128, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("Kraken", 48, 200, {"bidirectional": True, "batch_first": True}),
    ("Flair tagger", 100, 256, {"bidirectional": True, "batch_first": True}),
    ("Stanza tagger", 125, 200, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5}),
    ("Tacotron 2 encoder", 512, 256, {"bidirectional": True, "batch_first": True}),
    ("Encodec", 512, 512, {"num_layers": 2}),
    ("Demucs", 384, 384, {"num_layers": 2, "bidirectional": True}),
    ("AWD-LSTM", 400, 1150, {}),
    ("R2D2", 512, 512, {}),
    ("BiDAF", 200, 100, {"bidirectional": True, "batch_first": True}),
    ("InferSent", 300, 512, {"bidirectional": True}),
    ("Open-Unmix", 512, 256, {"num_layers": 3, "bidirectional": True, "dropout": 0.4}),
    ("deep-river", 10, 32, {"bias": False}),
]


class Model(torch.nn.Module):
    """An LSTM in its usual company."""

    def __init__(self, I: int, H: int, options: dict) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(8, I)
        self.layers = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(I, H, **options)})
        self.head = torch.nn.Linear(H * (1 + options.get("bidirectional", False)), 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each step."""
        y, _ = self.layers["rnn"](torch.tanh(self.embed(x)))
        return self.head(y)


@pytest.mark.parametrize(("who", "I", "H", "options"), SHAPES, ids=[shape[0] for shape in SHAPES])
def test_accelerate_public_shapes(who: str, I: int, H: int, options: dict) -> None:
    model = Model(I, H, options).eval()
    theirs, before = copy.deepcopy(model), dict(model.named_parameters())
    report = fastlstm.torch.accelerate(model)
    assert report.swapped == ["layers.rnn"] and not report.left
    assert type(model.layers["rnn"]) is fastlstm.torch.LSTM
    x = torch.randn(7, 5, 8)
    torch.testing.assert_close(model(x), theirs(x), rtol=0, atol=1e-5)
    assert all(p is before[name] for name, p in model.named_parameters())
    torch.testing.assert_close(model.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert list(model.state_dict()) == list(theirs.state_dict())
    fresh = Model(I, H, options)
    fresh.load_state_dict(model.state_dict())


def test_accelerate_says_what_it_left() -> None:
    class Special(torch.nn.LSTM):
        """May compute anything."""

    shared = torch.nn.LSTM(3, 4)
    modules = {
        "plain": shared,
        "again": shared,
        "lowered": torch.nn.LSTM(3, 4, dtype=torch.bfloat16),
        "special": Special(3, 4),
        "gru": torch.nn.GRU(3, 4),
        "cell": torch.nn.LSTMCell(3, 4),
        "linear": torch.nn.Linear(3, 4),
    }
    called = []
    shared.register_forward_hook(lambda *_: called.append(1))
    model = torch.nn.ModuleDict(modules)
    report = fastlstm.torch.accelerate(model)
    assert report.swapped == ["plain"]  # one module under two names
    assert model["plain"] is model["again"] is shared
    assert set(report.left) == {"lowered", "special", "gru", "cell"}
    assert "bfloat16" in report.left["lowered"]
    assert "subclass" in report.left["special"] and "GRU" in report.left["gru"] and "LSTMCell" in report.left["cell"]
    assert "swapped plain" in str(report) and "left    gru: " in str(report)
    shared(torch.zeros(2, 3))
    assert called == [1]
    assert fastlstm.torch.accelerate(model).swapped == []
    alone = torch.nn.LSTM(3, 4)
    assert fastlstm.torch.accelerate(alone).swapped == [""] and type(alone) is fastlstm.torch.LSTM
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, but was int"):
        fastlstm.torch.accelerate(3)


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
