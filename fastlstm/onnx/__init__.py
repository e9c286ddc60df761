"""ONNX: its LSTM operator on arrays, and models in its format.

`lstm` computes the operator, and an `Operator` is one with its weights; they do not need the onnx package. `load` takes
the LSTM nodes of a model as layers, and `export` writes a layer as a model. `replace` runs a model by onnxruntime, but
for its LSTM nodes.
"""

from typing import Any

from fastlstm.onnx.operator import Operator, lstm

__all__ = ["Operator", "Session", "export", "load", "lstm", "replace"]

_LATE = {"load": "files", "export": "files", "replace": "session", "Session": "session"}


def __getattr__(name: str) -> Any:
    """What needs onnx or onnxruntime is imported when it is asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    except ModuleNotFoundError as error:
        library = str(error.name).split(".")[0]
        if library not in ("onnx", "onnxruntime"):
            raise
        raise ModuleNotFoundError(
            f"fastlstm.onnx.{name} needs {library}: pip install 'fastlstm[onnx]'", name=library
        ) from None
