"""Weights from and to files and other libraries: safetensors; the conventions of torch, Keras, ONNX and Flax.

The common form is this library's `state_dict`: PyTorch's names, gates in the order i, f, g, o, two biases. A converter
of another convention takes or gives the arrays of one layer, `layer` counting from 0; a stack is the union of layers::

    state = from_keras(first.get_weights(), layer=0) | from_keras(second.get_weights(), layer=1)

Where the other side has one bias, it is the sum of both, and comes back as one of them with the other zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlstm.state_dicts import (
    arrays_of,
    check_shapes,
    directions_of,
    from_tensor,
    mapping_of,
    named,
    reordered,
    stripped,
    suffixes,
)

if TYPE_CHECKING:
    import torch

ONNX_GATES = (0, 3, 1, 2)  # i, o, f, c out of i, f, g, o
ONNX_GATES_BACK = (0, 2, 3, 1)
ONNX_PEEPHOLES = (0, 2, 1)  # i, o, f out of i, f, o, and the way back
FLAX_GATES = ("i", "f", "g", "o")


# --- files ------------------------------------------------------------------------------------------------------------


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        if error.name not in ("safetensors", "safetensors.numpy"):
            raise
        message = "this file format needs safetensors: pip install 'fastlstm[safetensors]'"
        raise ModuleNotFoundError(message, name="safetensors") from None
    return safetensors.numpy


def save_safetensors(source: Any, path: str | PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write parameters to a safetensors file, which PyTorch and others read too.

    Parameters
    ----------
    source
        A layer, or anything with a `state_dict()`, or such a mapping itself.
    path
        The file; one that exists is overwritten.
    metadata
        Texts for the file's header.

    Raises
    ------
    TypeError
        `source` is none of these, or holds something that is no array.
    ModuleNotFoundError
        safetensors is not installed.
    """
    # The writer takes an array's memory as it lies, so it must lie in order.
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays_of(source).items()}
    _safetensors().save_file(arrays, path, dict(metadata) if metadata else None)


def load_safetensors(path: str | PathLike[str], prefix: str = "") -> dict[str, np.ndarray]:
    """Read parameters from a safetensors file.

    Parameters
    ----------
    path
        The file.
    prefix
        Read only what begins with it, as `"encoder.lstm."` for one layer of a model, and take it off the names.

    Returns
    -------
    dict
        Arrays by name, for `load_state_dict`.

    Raises
    ------
    ValueError
        Nothing in the file begins with `prefix`.
    ModuleNotFoundError
        safetensors is not installed.
    """
    return stripped(_safetensors().load_file(path), prefix)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def from_torch(source: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Take parameters from PyTorch.

    Parameters
    ----------
    source
        A module, such as `torch.nn.LSTM`, or a `state_dict()`.
    prefix
        Take only what begins with it, as `"encoder.lstm."` for one layer of a model, and take it off the names.

    Returns
    -------
    dict
        Copies, on the CPU; of half precision as float32.

    Raises
    ------
    TypeError, ValueError
        `source` is neither, or nothing in it begins with `prefix`.
    """
    return {name: from_tensor(value) for name, value in stripped(mapping_of(source), prefix).items()}


def to_torch(source: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Give parameters to PyTorch: tensors for a module's `load_state_dict`.

    Parameters
    ----------
    source
        A layer, or a `state_dict()`.
    prefix
        Put before each name, for a layer of a model.

    Returns
    -------
    dict
        Copies, as tensors.
    """
    import torch

    return {prefix + name: torch.from_numpy(np.array(value)) for name, value in arrays_of(source).items()}


# --- Keras ------------------------------------------------------------------------------------------------------------


def from_keras(weights: Sequence[Any], layer: int = 0) -> dict[str, np.ndarray]:
    """Take one layer from Keras 3.

    Parameters
    ----------
    weights
        `get_weights()` of an LSTM: kernel (I, 4H), recurrent kernel (H, 4H) and, if it has one, bias (4H,), gates in
        the order i, f, c, o; of a `Bidirectional`, those of the forward and of the backward layer.
    layer
        Its number in the stack.

    Returns
    -------
    dict
        Parameters by name; the bias is `bias_ih`, and `bias_hh` is zero.

    Raises
    ------
    ValueError
        A wrong number of arrays, or shapes that do not fit together.
    """
    if len(weights) not in (2, 3, 4, 6):
        raise ValueError(f"weights must be 2 or 3 arrays, or twice as many if bidirectional, but were {len(weights)}")
    each = len(weights) // 2 if len(weights) in (4, 6) else len(weights)
    found: dict[str, Any] = {}
    for suffix, begin in zip(suffixes(layer), range(0, len(weights), each), strict=False):
        kernel, recurrent, *bias = (np.asarray(array) for array in weights[begin : begin + each])
        check_shapes(kernel.T, recurrent.T, *bias)
        found |= named(suffix, kernel.T, recurrent.T, *((bias[0], np.zeros_like(bias[0])) if bias else ()))
    return found


def to_keras(source: Any, layer: int = 0) -> list[np.ndarray]:
    """Give one layer to Keras: arrays for `set_weights` of an LSTM or, with a second direction, a `Bidirectional`.

    Parameters
    ----------
    source, layer
        A layer, or a `state_dict()`, and the number of the layer in its stack.

    Returns
    -------
    list
        As `from_keras` takes them.

    Raises
    ------
    ValueError
        The layer is not there, or has parameters that Keras's LSTM has not.
    """
    found = []
    for w_ih, w_hh, *biases in directions_of(source, layer, "Keras's LSTM"):
        found += [w_ih.T.copy(), w_hh.T.copy(), *([biases[0] + biases[1]] if biases else [])]
    return found


# --- ONNX -------------------------------------------------------------------------------------------------------------


def from_onnx(W: Any, R: Any, B: Any = None, P: Any = None, layer: int = 0) -> dict[str, np.ndarray]:
    """Take one layer from an ONNX LSTM node.

    Parameters
    ----------
    W, R, B
        The node's inputs (D, 4H, I), (D, 4H, H) and (D, 8H) or None, gates in the order i, o, f, c.
    P
        Peepholes (D, 3H), in the order i, o, f, or None.
    layer
        Its number in the stack.

    Returns
    -------
    dict
        Parameters by name, the peepholes as `weight_ch`.

    Raises
    ------
    ValueError
        Shapes that do not fit together.
    """
    W, R = np.asarray(W), np.asarray(R)
    if W.ndim != 3 or R.ndim != 3 or len(W) not in (1, 2):
        raise ValueError(f"W and R must be (D, 4H, I) and (D, 4H, H), but are {W.shape} and {R.shape}")
    found: dict[str, np.ndarray] = {}
    D, H = len(W), R.shape[2]
    for name, value, width in (("R", R, None), ("B", B, 8 * H), ("P", P, 3 * H)):
        shape = None if value is None else np.shape(value)
        if shape is not None and (shape[0] != D or (width is not None and shape != (D, width))):
            raise ValueError(f"{name} must have {D} directions and fit R {R.shape}, but is {shape}")
    for d, suffix in zip(range(D), suffixes(layer), strict=False):
        both = () if B is None else np.split(np.asarray(B[d]), 2)
        check_shapes(W[d], R[d], *both)
        found |= named(suffix, *(reordered(array, ONNX_GATES_BACK) for array in (W[d], R[d], *both)))
        if P is not None:
            found["weight_ch" + suffix] = reordered(np.asarray(P[d]), ONNX_PEEPHOLES)
    return found


def to_onnx(source: Any, layer: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Give one layer to an ONNX LSTM node.

    Parameters
    ----------
    source, layer
        A layer, or a `state_dict()`, and the number of the layer in its stack.

    Returns
    -------
    W, R, B, P
        As `from_onnx` takes them; B and P are None where there are none.

    Raises
    ------
    ValueError
        The layer is not there, or has parameters that ONNX's LSTM has not.
    """
    state, peepholes = dict(arrays_of(source)), []
    for suffix in suffixes(layer):
        if "weight_ch" + suffix in state and state["weight_ch" + suffix].ndim == 1:
            peepholes.append(reordered(state.pop("weight_ch" + suffix), ONNX_PEEPHOLES))
    each = [[reordered(array, ONNX_GATES) for array in arrays] for arrays in directions_of(state, layer, "ONNX's LSTM")]
    W, R = np.stack([arrays[0] for arrays in each]), np.stack([arrays[1] for arrays in each])
    B = np.stack([np.concatenate(arrays[2:]) for arrays in each]) if len(each[0]) == 4 else None
    return W, R, B, np.stack(peepholes) if peepholes else None


# --- Flax -------------------------------------------------------------------------------------------------------------


def from_flax(
    params: Mapping[str, Any], reverse: Mapping[str, Any] | None = None, layer: int = 0
) -> dict[str, np.ndarray]:
    """Take one layer from Flax.

    Parameters
    ----------
    params
        Of `flax.linen.LSTMCell` or `OptimizedLSTMCell`: for each gate the dictionaries `ii`, `if`, `ig`, `io` with a
        `kernel` (I, H), and `hi`, `hf`, `hg`, `ho` with a `kernel` (H, H) and a `bias` (H,).
    reverse
        The same of the second direction.
    layer
        Its number in the stack.

    Returns
    -------
    dict
        Parameters by name; the bias is `bias_hh`, and `bias_ih` is zero.

    Raises
    ------
    ValueError
        Names that are missing, or shapes that do not fit together.
    """
    found: dict[str, Any] = {}
    for suffix, given in zip(suffixes(layer), (params, reverse), strict=True):
        if given is None:
            continue
        if missing := [side + gate for side in "ih" for gate in FLAX_GATES if side + gate not in given]:
            raise ValueError(f"params must have the gates of an LSTM cell, but lack {', '.join(missing)}")
        w_ih, w_hh = (np.concatenate([np.asarray(given[side + g]["kernel"]).T for g in FLAX_GATES]) for side in "ih")
        bias = (
            [np.concatenate([np.asarray(given["h" + g]["bias"]) for g in FLAX_GATES])] if "bias" in given["hi"] else []
        )
        check_shapes(w_ih, w_hh, *bias)
        found |= named(suffix, w_ih, w_hh, *(np.zeros_like(b) for b in bias), *bias)
    return found


def to_flax(source: Any, layer: int = 0, reverse: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """Give one direction of one layer to Flax: the `params` of `flax.linen.LSTMCell` or `OptimizedLSTMCell`.

    Parameters
    ----------
    source, layer
        A layer, or a `state_dict()`, and the number of the layer in its stack.
    reverse
        Whether to give the second direction.

    Returns
    -------
    dict
        As `from_flax` takes it.

    Raises
    ------
    ValueError
        The layer or direction is not there, or has parameters that Flax's LSTM has not.
    """
    directions = directions_of(source, layer, "Flax's LSTM")
    if reverse and len(directions) == 1:
        raise ValueError("reverse must be False: there is no second direction")
    w_ih, w_hh, *biases = directions[reverse]
    found: dict[str, Any] = {}
    for side, weight in (("i", w_ih), ("h", w_hh)):
        for gate, part in zip(FLAX_GATES, np.split(weight, 4), strict=True):
            found[side + gate] = {"kernel": part.T.copy()}
    if biases:
        for gate, part in zip(FLAX_GATES, np.split(biases[0] + biases[1], 4), strict=True):
            found["h" + gate]["bias"] = part
    return found
