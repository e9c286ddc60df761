"""All layers, as `keras.layers`."""

from fastlstm.models.base import Layer
from fastlstm.models.bidirectional import Bidirectional
from fastlstm.models.feedforward import Activation, Dense, Dropout, Embedding, Input, InputLayer, Masking
from fastlstm.models.recurrent import LSTM

__all__ = [
    "LSTM",
    "Activation",
    "Bidirectional",
    "Dense",
    "Dropout",
    "Embedding",
    "Input",
    "InputLayer",
    "Layer",
    "Masking",
]
