"""`accelerate`: what it swaps in models of public shapes, and what it leaves and says so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import fastlstm.torch

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


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same parameters and samples in every run."""
    torch.manual_seed(0)


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
