"""Models of LSTMs, trained end to end, in Keras's words; with NumPy and Numba alone.

A Keras program runs once its imports name this module instead: layers, losses, optimizers and the rest can be had by
their own names here, and under the modules in which Keras has them.
"""

from fastlstm.models import (
    activations,
    callbacks,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    preprocessing,
    schedules,
    text,
    utils,
)
from fastlstm.models.bidirectional import Bidirectional
from fastlstm.models.callbacks import (
    BackupAndRestore,
    Callback,
    EarlyStopping,
    History,
    LearningRateScheduler,
    ModelCheckpoint,
)
from fastlstm.models.decoding import generate
from fastlstm.models.feedforward import Activation, Dense, Dropout, Embedding, Input, InputLayer, Masking
from fastlstm.models.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)
from fastlstm.models.metrics import BinaryAccuracy, CategoricalAccuracy, SparseCategoricalAccuracy
from fastlstm.models.network import set_random_seed
from fastlstm.models.optimizers import SGD, Adam, AdamW, RMSprop
from fastlstm.models.recurrent import LSTM
from fastlstm.models.saving import load_model
from fastlstm.models.schedules import CosineDecay, ExponentialDecay, LearningRateSchedule, PiecewiseConstantDecay
from fastlstm.models.seq2seq import Seq2Seq
from fastlstm.models.sequential import Sequential
from fastlstm.models.series import windows
from fastlstm.models.text import Tokenizer, pad_sequences, text_to_word_sequence, to_categorical

__all__ = [
    "LSTM",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "BackupAndRestore",
    "Bidirectional",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "Callback",
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "CosineDecay",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "ExponentialDecay",
    "History",
    "Input",
    "InputLayer",
    "LearningRateSchedule",
    "LearningRateScheduler",
    "Masking",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "ModelCheckpoint",
    "PiecewiseConstantDecay",
    "RMSprop",
    "Seq2Seq",
    "Sequential",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "Tokenizer",
    "activations",
    "callbacks",
    "generate",
    "initializers",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "pad_sequences",
    "preprocessing",
    "schedules",
    "set_random_seed",
    "text",
    "text_to_word_sequence",
    "to_categorical",
    "utils",
    "windows",
]
