"""`keras.preprocessing`, as older programs name it: its `sequence` and its `text` are one module here."""

from fastlstm.models import text
from fastlstm.models import text as sequence

__all__ = ["sequence", "text"]
