"""What `keras.models` has of use here."""

from fastlstm.models.saving import load_model
from fastlstm.models.sequential import Sequential

__all__ = ["Sequential", "load_model"]
