"""`accelerate` on modules of the shapes of public models: outputs, parameters and state_dict stay as they were."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import tolerances
import torch

import fastlstm.torch


class Shape(NamedTuple):
    """The LSTMs of a model: (input, hidden, layers, bidirectional) each."""

    lstms: tuple[tuple[int, int, int, bool], ...]
    batch_first: bool = False
    dropout: float = 0.0
    bias: bool = True


MODELS = {
    "sb3-contrib RecurrentPPO, actor and critic": Shape(((64, 256, 1, False), (64, 256, 1, False))),
    "silero-vad": Shape(((128, 128, 1, False),)),
    "GluonTS DeepAR": Shape(((30, 40, 2, False),), True, 0.1),
    "GluonTS TFT, encoder and decoder": Shape(((32, 32, 1, False), (32, 32, 1, False)), True),
    "Darts RNNModel": Shape(((1, 25, 1, False),), True),
    "NeuralForecast LSTM": Shape(((5, 128, 2, False),), True),
    "neuralhydrology cudalstm": Shape(((30, 128, 1, False),)),
    "EasyOCR": Shape(((512, 256, 1, True), (256, 256, 1, True)), True),
    "docTR crnn": Shape(((512, 128, 2, True),), True),
    "Kraken": Shape(((48, 200, 1, True), (400, 200, 1, True), (400, 200, 1, True)), True, 0.0),
    "Flair tagger": Shape(((100, 256, 1, True),), True),
    "Flair language model": Shape(((100, 512, 1, False),)),
    "Stanza parser": Shape(((200, 200, 3, True),), True, 0.33),
    "AWD-LSTM": Shape(((400, 1150, 1, False), (1150, 1150, 1, False), (1150, 400, 1, False))),
    "GNMT encoder": Shape(((1024, 1024, 1, True), (2048, 1024, 1, False))),
    "Tacotron 2 encoder": Shape(((512, 256, 1, True),), True),
    "Deep Speech 2": Shape(((672, 512, 1, True),), False, 0.0, False),
    "Open-Unmix": Shape(((512, 256, 3, True),), False, 0.4),
    "pyannote segmentation": Shape(((60, 128, 4, True),), True, 0.5),
    "char-rnn": Shape(((65, 128, 2, False),), True, 0.5),
}


class Model(torch.nn.Module):
    """Its LSTMs side by side, deep in a module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        options = {"batch_first": shape.batch_first, "bias": shape.bias}
        made = []
        for i, h, layers, both in shape.lstms:
            dropout = shape.dropout if layers > 1 else 0.0
            made.append(torch.nn.LSTM(i, h, layers, bidirectional=both, dropout=dropout, **options))
        self.body = torch.nn.ModuleDict({"recurrent": torch.nn.ModuleList(made)})

    def forward(self, *xs: torch.Tensor) -> list[torch.Tensor]:
        found = [lstm(x) for lstm, x in zip(self.body["recurrent"], xs, strict=True)]
        return [tensor for y, (h, c) in found for tensor in (y, h, c)]


def test_there_are_twenty() -> None:
    assert len(MODELS) == 20


@pytest.mark.parametrize("name", MODELS)
def test_outputs_parameters_and_state_dict(name: str) -> None:
    torch.manual_seed(0)
    theirs = Model(MODELS[name]).eval()
    ours = copy.deepcopy(theirs)
    parameters, state = dict(ours.named_parameters()), copy.deepcopy(ours.state_dict())
    report = fastlstm.torch.accelerate(ours)
    assert report.swapped == [f"body.recurrent.{k}" for k in range(len(MODELS[name].lstms))] and not report.left
    after = dict(ours.named_parameters())
    assert list(after) == list(parameters) and all(after[key] is parameters[key] for key in parameters)
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in state.items())
    xs = [torch.randn(4, 4, i) for i, *_ in MODELS[name].lstms]
    with torch.no_grad():
        for one, other in zip(ours(*xs), theirs(*xs), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=tolerances.TORCH)
    theirs.load_state_dict(ours.state_dict())
