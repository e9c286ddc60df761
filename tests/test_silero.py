"""A trained model.

The LSTM inside silero-vad's voice activity detector, on a synthetic utterance, against onnxruntime.
"""

from __future__ import annotations

from importlib.metadata import files
from typing import Any, NamedTuple

import numpy as np
import pytest
import tolerances

import fastlstm

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RATE, HOP, CONTEXT = 16000, 512, 64  # Hz, and the samples of a step and of what it sees of the step before


def utterance(seconds: float = 8.0) -> np.ndarray:
    """Syllables of a voice with a moving pitch and formants, with pauses between them, over faint noise."""
    rng, t = np.random.default_rng(0), np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * t) + 8 * np.sin(2 * np.pi * 5.1 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    first, second = 500 + 250 * np.sin(2 * np.pi * 1.3 * t), 1500 + 600 * np.sin(2 * np.pi * 0.9 * t + 1)
    voice = np.zeros_like(t)
    for k in range(1, 40):
        frequency = k * pitch
        envelope = sum(
            gain * np.exp(-(((frequency - peak) / 160) ** 2))
            for peak, gain in ((first, 1.0), (second, 0.5), (2600, 0.25))
        )
        voice += envelope * np.sin(k * phase)
    syllables = np.clip(3 * np.sin(2 * np.pi * 3.4 * t), 0, 1) * ((t % 4) < 2.2)
    sound = 0.2 * voice * syllables + 0.002 * rng.standard_normal(len(t))
    return sound.astype(np.float32)


class Model(NamedTuple):
    """What onnxruntime computes on the utterance, and the weights."""

    x: np.ndarray  # (T, 1, 128), what the LSTM is fed with
    state: tuple[np.ndarray, np.ndarray]
    y: np.ndarray  # (T, 1, 128)
    state_n: tuple[np.ndarray, np.ndarray]
    speech: np.ndarray  # (T,), the probability of speech
    head: tuple[np.ndarray, float]  # from the LSTM's output to its logit
    parameters: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> Model:
    path = next(file.locate() for file in files("silero-vad") or () if file.name == "silero_vad_16k_sequence.onnx")
    proto = onnx.load(str(path))
    node = next(n for n in proto.graph.node if n.op_type == "LSTM")
    weights: dict[str, Any] = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert [a.name for a in node.attribute] == ["hidden_size"], "an LSTM with options of its own"
    proto.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in (node.input[0], node.output[0])
    )

    sound = np.concatenate([np.zeros(CONTEXT, np.float32), utterance()])
    frames = np.lib.stride_tricks.sliding_window_view(sound, CONTEXT + HOP)[::HOP]
    rng = np.random.default_rng(1)
    h, c = (0.3 * rng.standard_normal((2, 1, 1, 128))).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [node.input[0], *node.output, "speech_probs"]
    x, y, h_n, c_n, speech = session.run(names, {"input": np.ascontiguousarray(frames), "h": h, "c": c})

    w, r, b = (weights[name][0] for name in node.input[1:4])
    b_w, b_r = np.split(b, 2)

    def reordered(stacked: np.ndarray) -> np.ndarray:
        """ONNX's gates i, o, f, c as i, f, g, o."""
        i, o, f, g = np.split(stacked, 4)
        return np.concatenate([i, f, g, o])

    named = zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), (w, r, b_w, b_r), strict=True)
    parameters = {name: reordered(value) for name, value in named}
    head = weights["output.weight"][0, :, 0], float(weights["output.bias"][0])
    return Model(x, (h, c), y[:, 0], (h_n, c_n), speech, head, parameters)


@pytest.fixture(scope="module")
def lstm(model: Model) -> fastlstm.LSTM:
    layer = fastlstm.LSTM(model.x.shape[2], 128)
    layer.load_state_dict(model.parameters)
    return layer


def test_the_signal_says_something(model: Model) -> None:
    assert model.x.shape == (250, 1, 128)
    assert model.speech.max() > 0.5 > 10 * model.speech.min()


@pytest.mark.parametrize("threads", [1, 2])
def test_whole(model: Model, lstm: fastlstm.LSTM, threads: int) -> None:
    fastlstm.set_num_threads(threads)
    y, state = lstm(model.x, model.state)
    for found, wanted in ((y, model.y), *zip(state, model.state_n, strict=True)):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerances.ONNXRUNTIME * max(1, abs(wanted).max()))
    weight, bias = model.head
    speech = 1 / (1 + np.exp(-(np.maximum(y[:, 0], 0) @ weight + bias)))
    np.testing.assert_allclose(speech, model.speech.ravel(), rtol=0, atol=tolerances.ONNXRUNTIME)


def test_step_by_step(model: Model, lstm: fastlstm.LSTM) -> None:
    stream = lstm.stream()
    stream.state = model.state
    cell = fastlstm.LSTMCell(128, 128)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in model.parameters.items()})
    whole, (h, c) = lstm(model.x, model.state)[0], (model.state[0][0], model.state[1][0])
    for t, x in enumerate(model.x):
        h, c = cell(x, (h, c))
        y = stream.step(x)
        np.testing.assert_allclose(y, model.y[t], rtol=0, atol=tolerances.ONNXRUNTIME)
        np.testing.assert_array_equal(y, whole[t])
        np.testing.assert_array_equal(h, y)
