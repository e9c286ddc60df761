"""Converters of weights: every way and back, and what the other side's own program computes with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import fastlstm
from fastlstm import reference, weights
from fastlstm.cell import CellSpec, parameter_shapes

I, H = 5, 6
ATOL = 2e-6  # what two libraries' roundings of float32 are apart, over a few steps
OPTIONS = [
    {"bidirectional": d, "bias": b, "num_layers": n} for d in (False, True) for b in (False, True) for n in (1, 2)
]


def layer(**options) -> fastlstm.LSTM:
    """A layer with random parameters."""
    return fastlstm.LSTM(I, H, seed=1, **options)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, in any order, and the same bits."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].flags.c_contiguous, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def merged(state: dict[str, np.ndarray], kept: str) -> dict[str, np.ndarray]:
    """The state with both biases in the one `kept`, and zeros in the other."""
    found = dict(state)
    for name in state:
        if name.startswith("bias_ih"):
            other = name.replace("bias_ih", "bias_hh")
            into, out = (name, other) if kept == "bias_ih" else (other, name)
            found[into], found[out] = state[name] + state[other], np.zeros_like(state[name])
    return found


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_safetensors_round_trip(tmp_path: Path, dtype: str) -> None:
    source, path = layer(num_layers=2, bidirectional=True, dtype=dtype), tmp_path / "lstm.safetensors"
    weights.save_safetensors(source, path, {"trained": "no"})
    assert_same(weights.load_safetensors(path), source.state_dict())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"trained": "no"}
        theirs = torch.nn.LSTM(I, H, 2, bidirectional=True, dtype=getattr(torch, dtype))
        theirs.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    assert_same(weights.from_torch(theirs), source.state_dict())


def test_safetensors_of_a_model(tmp_path: Path) -> None:
    model, path = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(I, H), "head": torch.nn.Linear(H, 2)}), tmp_path / "model"
    save_file(model.state_dict(), path)
    assert_same(weights.load_safetensors(path, "rnn."), weights.from_torch(model["rnn"]))
    assert_same(weights.from_torch(model, "rnn."), weights.from_torch(model["rnn"]))
    with pytest.raises(ValueError, match=r"prefix must begin some of the names, but was 'lstm\.', and they are .*head"):
        weights.load_safetensors(path, "lstm.")


def test_safetensors_of_strided_and_swapped_arrays(tmp_path: Path) -> None:
    array = random(6, 4)
    given = {"a": array.T, "b": array[::2, ::-1], "c": array.astype(">f4")}
    weights.save_safetensors(given, tmp_path / "file")
    for name, found in weights.load_safetensors(tmp_path / "file").items():
        np.testing.assert_array_equal(found, given[name], err_msg=name)


def test_missing_safetensors_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['safetensors'] = None; from fastlstm import weights; weights.load_safetensors('x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert "needs safetensors: pip install 'fastlstm[safetensors]'" in done.stderr.splitlines()[-1]


def test_converters_load_no_library() -> None:
    script = "import sys, fastlstm.weights; print({'torch', 'safetensors', 'keras', 'onnx', 'jax'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()"


# --- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_torch(options: dict) -> None:
    ours, theirs = layer(**options), torch.nn.LSTM(I, H, **options)
    theirs.load_state_dict(weights.to_torch(ours))
    assert_same(weights.from_torch(theirs), ours.state_dict())
    assert_same(weights.from_torch(weights.to_torch(ours, "rnn."), "rnn."), ours.state_dict())
    x = random(4, 3, I)
    np.testing.assert_allclose(theirs(torch.from_numpy(x))[0].detach(), ours(x)[0], rtol=0, atol=ATOL)


def test_from_torch_copies_and_widens() -> None:
    module = torch.nn.LSTM(I, H, proj_size=2).to(torch.bfloat16)
    found = weights.from_torch(module)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert found["weight_hr_l0"].shape == (2, H)
    module = torch.nn.LSTM(I, H)
    found = weights.from_torch(module)
    found["bias_ih_l0"] += 1
    assert not np.array_equal(found["bias_ih_l0"], module.bias_ih_l0.detach().numpy())


# --- Keras ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_keras_round_trip(options: dict) -> None:
    source, back = layer(**options), {}
    for k in range(source.num_layers):
        arrays = weights.to_keras(source, k)
        assert len(arrays) == (2 + source.bias) * (1 + source.bidirectional)
        back |= weights.from_keras(arrays, k)
        for one, other in zip(weights.to_keras(back, k), arrays, strict=True):
            np.testing.assert_array_equal(one, other)
    assert_same(back, merged(source.state_dict(), "bias_ih"))


def test_keras_equation() -> None:
    """Keras's own: z = x kernel + h recurrent + bias, split into i, f, c, o."""
    kernel, recurrent, bias, x = random(I, 4 * H), random(H, 4 * H), random(4 * H), random(4, 1, I)
    h = c = np.zeros((1, H))
    for x_t in x.astype(np.float64):
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent + bias, 4, axis=1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
    ours = fastlstm.LSTM(I, H)
    ours.load_state_dict(weights.from_keras([kernel, recurrent, bias]))
    np.testing.assert_allclose(ours(x)[0][-1], h, rtol=0, atol=ATOL)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras's own get_weights
@pytest.mark.parametrize(("bidirectional", "bias"), [(False, True), (True, True), (True, False)])
def test_keras_itself(bidirectional: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    theirs = keras.layers.LSTM(H, return_sequences=True, use_bias=bias)
    theirs = keras.layers.Bidirectional(theirs) if bidirectional else theirs
    ours, x = layer(bidirectional=bidirectional, bias=bias, batch_first=True), random(3, 4, I)
    theirs(x)
    ours.load_state_dict(weights.from_keras(theirs.get_weights()))
    np.testing.assert_allclose(ours(x)[0], keras.ops.convert_to_numpy(theirs(x)), rtol=0, atol=ATOL)
    other = fastlstm.LSTM(I, H, bidirectional=bidirectional, bias=bias, batch_first=True, seed=2)
    theirs.set_weights(weights.to_keras(other))
    np.testing.assert_allclose(other(x)[0], keras.ops.convert_to_numpy(theirs(x)), rtol=0, atol=ATOL)


# --- ONNX -------------------------------------------------------------------------------------------------------------


def run_onnx(x: np.ndarray, *arrays: np.ndarray | None) -> np.ndarray:
    """y (T, B, D*H) of one LSTM node by onnxruntime."""
    names = ["X", "W", "R", "B", "", "", "", "P"]
    given = {"X": x, **{name: a for name, a in zip(("W", "R", "B", "P"), arrays, strict=True) if a is not None}}
    directions = len(arrays[0])
    direction = "bidirectional" if directions == 2 else "forward"
    inputs = [name if name in given else "" for name in names]
    node = onnx.helper.make_node("LSTM", inputs, ["Y"], hidden_size=H, direction=direction)
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, a.shape) for n, a in given.items()]
    out = onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "lstm", infos, [out])
    opset = [onnx.helper.make_opsetid("", 14)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, given)
    return y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], directions * H)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_onnx(options: dict) -> None:
    source, back = layer(**options), {}
    y = x = random(4, 3, I)
    for k in range(source.num_layers):
        W, R, B, P = weights.to_onnx(source, k)
        assert P is None and (B is None) == (not source.bias)
        y = run_onnx(y, W, R, B, P)
        back |= weights.from_onnx(W, R, B, layer=k)
    np.testing.assert_allclose(y, source(x)[0], rtol=0, atol=ATOL)
    assert_same(back, source.state_dict())


def test_onnx_peepholes() -> None:
    spec = CellSpec(peephole="diagonal")
    state = {name + "_l0": random(*shape) for name, shape in parameter_shapes(spec, I, H).items()}
    arrays, x = weights.to_onnx(state), random(4, 3, I)
    assert_same(weights.from_onnx(*arrays), state)
    expected = reference.forward(state, x, spec=spec)[0]
    np.testing.assert_allclose(run_onnx(x, *arrays), expected, rtol=0, atol=ATOL)


# --- Flax -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_flax_round_trip(options: dict) -> None:
    source, back = layer(**options), {}
    for k in range(source.num_layers):
        params = [weights.to_flax(source, k, reverse) for reverse in (False, True)[: 1 + source.bidirectional]]
        assert set(params[0]) == {"ii", "if", "ig", "io", "hi", "hf", "hg", "ho"}
        assert params[0]["hf"]["kernel"].shape == (H, H) and ("bias" in params[0]["hf"]) == source.bias
        back |= weights.from_flax(*params, layer=k)
    assert_same(back, merged(source.state_dict(), "bias_hh"))


def test_flax_equation() -> None:
    """Flax's own: each gate is Dense without bias of x plus Dense with bias of h."""
    params = {"i" + gate: {"kernel": random(I, H) + k} for k, gate in enumerate("ifgo")}
    params |= {"h" + gate: {"kernel": random(H, H) - k / 2, "bias": random(H) * k} for k, gate in enumerate("ifgo")}
    x, h, c = random(4, 1, I), np.zeros((1, H)), np.zeros((1, H))
    for x_t in x.astype(np.float64):
        i, f, g, o = (
            x_t @ params["i" + k]["kernel"] + h @ params["h" + k]["kernel"] + params["h" + k]["bias"] for k in "ifgo"
        )
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
    ours = fastlstm.LSTM(I, H)
    ours.load_state_dict(weights.from_flax(params))
    np.testing.assert_allclose(ours(x)[0][-1], h, rtol=0, atol=ATOL)


@pytest.mark.parametrize("kind", ["LSTMCell", "OptimizedLSTMCell"])
def test_flax_itself(kind: str) -> None:
    linen = pytest.importorskip("flax.linen")
    import jax

    theirs, x = linen.RNN(getattr(linen, kind)(H)), random(3, 4, I)
    params = theirs.init(jax.random.key(0), x)
    ours = layer(batch_first=True)
    ours.load_state_dict(weights.from_flax(params["params"]["cell"]))
    np.testing.assert_allclose(ours(x)[0], theirs.apply(params, x), rtol=0, atol=ATOL)
    other = fastlstm.LSTM(I, H, batch_first=True, seed=2)
    given = {"params": {"cell": weights.to_flax(other)}}
    np.testing.assert_allclose(other(x)[0], theirs.apply(given, x), rtol=0, atol=ATOL)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_errors_name_what_does_not_fit() -> None:
    with pytest.raises(
        ValueError, match="weights must be 2 or 3 arrays, or twice as many if bidirectional, but were 5"
    ):
        weights.from_keras([random(1)] * 5)
    with pytest.raises(ValueError, match=r"weights must fit .* but are \(24, 5\), \(20, 5\)"):
        weights.from_keras([random(I, 4 * H), random(5, 20)])
    with pytest.raises(ValueError, match=r"W and R must be \(D, 4H, I\)"):
        weights.from_onnx(random(4 * H, I), random(4 * H, H))
    with pytest.raises(ValueError, match=r"B must have 1 directions and fit R \(1, 24, 6\), but is \(1, 24\)"):
        weights.from_onnx(random(1, 4 * H, I), random(1, 4 * H, H), random(1, 4 * H))
    with pytest.raises(ValueError, match="but lack if, io"):
        weights.from_flax({key: {} for key in ("ii", "ig", "hi", "hf", "hg", "ho")})
    with pytest.raises(ValueError, match="there is no layer 1 with all its parameters among weight_ih_l0"):
        weights.to_keras(layer(), 1)
    with pytest.raises(ValueError, match="reverse must be False"):
        weights.to_flax(layer(), 0, reverse=True)
    with pytest.raises(ValueError, match="Keras's LSTM has nothing for weight_hr_l0"):
        weights.to_keras(torch.nn.LSTM(I, H, proj_size=2))
    with pytest.raises(ValueError, match="layer must be an integer from 0 on, but was -1"):
        weights.to_onnx(layer(), -1)
    with pytest.raises(TypeError, match="source must be a layer or a mapping from names to arrays, but was int"):
        weights.save_safetensors(3, "nowhere")
    with pytest.raises(TypeError, match="a must be a floating array, but is of int64"):
        weights.save_safetensors({"a": np.arange(3)}, "nowhere")
