"""What `keras.utils` has of use here."""

from fastlstm.models.network import set_random_seed
from fastlstm.models.text import pad_sequences, to_categorical

__all__ = ["pad_sequences", "set_random_seed", "to_categorical"]
