"""What a call takes and what it refuses.

Bad input by table, each with the name of the argument in the message; odd but good input of every kind.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, PackedSequence, reference

T, B, I, H = 4, 3, 5, 6


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


CONSTRUCTORS = {
    "input_size zero": ({"input_size": 0}, ValueError, r"input_size must be at least 1, but was 0"),
    "input_size a float": ({"input_size": 5.0}, TypeError, r"input_size must be an integer, but was 5\.0"),
    "input_size nan": ({"input_size": float("nan")}, TypeError, r"input_size must be an integer, but was nan"),
    "input_size infinite": ({"input_size": float("inf")}, TypeError, r"input_size must be an integer, but was inf"),
    "input_size True": ({"input_size": True}, TypeError, r"input_size must be an integer, but was True"),
    "hidden_size negative": ({"hidden_size": -1}, ValueError, r"hidden_size must be at least 1, but was -1"),
    "hidden_size a string": ({"hidden_size": "8"}, TypeError, r"hidden_size must be an integer, but was '8'"),
    "num_layers zero": ({"num_layers": 0}, ValueError, r"num_layers must be at least 1, but was 0"),
    "bias a number": ({"bias": 1}, TypeError, r"bias must be True or False, but was 1"),
    "batch_first None": ({"batch_first": None}, TypeError, r"batch_first must be True or False, but was None"),
    "bidirectional a string": (
        {"bidirectional": "yes"},
        TypeError,
        r"bidirectional must be True or False, but was 'yes'",
    ),
    "dropout above 1": (
        {"num_layers": 2, "dropout": 1.5},
        ValueError,
        r"dropout must be .* between 0 and 1, but was 1\.5",
    ),
    "dropout nan": (
        {"num_layers": 2, "dropout": float("nan")},
        ValueError,
        r"dropout must be .* between 0 and 1, but was nan",
    ),
    "dropout True": ({"num_layers": 2, "dropout": True}, TypeError, r"dropout must be a number, but was True"),
    "proj_size": ({"proj_size": 9}, ValueError, r"proj_size must be less than hidden_size = \d+.*, but was 9"),
    "proj_size negative": ({"proj_size": -3}, ValueError, r"proj_size must be at least 0, but was -3"),
    "dtype half": ({"dtype": np.float16}, TypeError, r"dtype must be float32 or float64, but was float16"),
    "dtype nonsense": ({"dtype": "single precision"}, TypeError, r"dtype must be .*, but was 'single precision'"),
}


@pytest.mark.parametrize(("options", "error", "message"), CONSTRUCTORS.values(), ids=CONSTRUCTORS)
def test_constructor_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LSTM(**({"input_size": I, "hidden_size": H} | options))


X = {
    "a vector": (ones(I), ValueError, r"x must have the shape \(T, B, I\) .* but has \(5,\)"),
    "four axes": (ones(1, T, B, I), ValueError, r"x must have the shape .* but has \(1, 4, 3, 5\)"),
    "features": (ones(T, B, I + 1), ValueError, r"x must have 5 features \(input_size\).* \(4, 3, 6\)"),
    "float64": (ones(T, B, I, dtype=np.float64), TypeError, r"x must have the layer's dtype float32, but has float64"),
    "integers": (ones(T, B, I, dtype=np.int64), TypeError, r"x must have the layer's dtype float32, but has int64"),
    "half": (ones(T, B, I, dtype=np.float16), TypeError, r"x must have the layer's dtype float32, but has float16"),
    "complex": (
        ones(T, B, I, dtype=np.complex64),
        TypeError,
        r"x must have the layer's dtype float32, but has complex64",
    ),
    "objects": (np.full((T, B, I), None), TypeError, r"x must have the layer's dtype float32, but has object"),
    "no array": ("x", TypeError, r"x must be an array of float32, but str is none"),
    "None": (None, (TypeError, ValueError), r"x must "),
    "ragged": ([[1.0, 2.0], [3.0]], TypeError, r"x must be an array of float32, but list is none"),
    "no steps": (ones(0, B, I), ValueError, r"x must have at least one step, but its shape is \(0, 3, 5\)"),
    "no steps, unbatched": (ones(0, I), ValueError, r"x must have at least one step, but its shape is \(0, 5\)"),
}


@pytest.mark.parametrize(("x", "error", "message"), X.values(), ids=X)
@pytest.mark.parametrize("call", ["__call__", "forward"])
def test_x_refused(call: str, x: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(LSTM(I, H, seed=0), call)(x)


def test_x_of_no_steps_batch_first() -> None:
    with pytest.raises(ValueError, match=r"x must have at least one step, but its shape is \(3, 0, 5\)"):
        LSTM(I, H, batch_first=True)(ones(B, 0, I))
    with pytest.raises(ValueError, match=r"x must have the shape \(B, T, I\)"):
        LSTM(I, H, batch_first=True)(ones(I))


good = ones(2, B, H)
STATES = {
    "an array": (good, TypeError, r"state must be a pair \(h, c\) or None, but was ndarray"),
    "three": ((good, good, good), TypeError, r"state must be a pair \(h, c\) or None, but was tuple"),
    "h of one layer": (
        (ones(1, B, H), good),
        ValueError,
        r"h of state must have the shape \(D\*L, B, H\) = \(2, 3, 6\), but has \(1, 3, 6\)",
    ),
    "c of another batch": (
        (good, ones(2, B + 1, H)),
        ValueError,
        r"c of state must have the shape .* = \(2, 3, 6\), but has \(2, 4, 6\)",
    ),
    "c of another size": (
        (good, ones(2, B, H + 1)),
        ValueError,
        r"c of state must have the shape .* but has \(2, 3, 7\)",
    ),
    "h unbatched": ((ones(2, H), good), ValueError, r"h of state must have the shape .* but has \(2, 6\)"),
    "c of float64": (
        (good, good.astype(np.float64)),
        TypeError,
        r"c of state must have the layer's dtype float32, but has float64",
    ),
    "h missing": ((None, good), (TypeError, ValueError), r"h of state must "),
}


@pytest.mark.parametrize(("state", "error", "message"), STATES.values(), ids=STATES)
def test_state_refused(state: Any, error: Any, message: str) -> None:
    lstm = LSTM(I, H, num_layers=2, seed=0)
    with pytest.raises(error, match=message):
        lstm(ones(T, B, I), state)
    tape = lstm.forward(ones(T, B, I))[2]
    with pytest.raises(error, match=message.replace("state", "dstate")):
        lstm.backward(tape, ones(T, B, H), state)


def test_state_of_a_single_sequence() -> None:
    lstm = LSTM(I, H, seed=0)
    with pytest.raises(ValueError, match=r"h of state must have the shape \(D\*L, H\) = \(1, 6\), but has \(1, 1, 6\)"):
        lstm(ones(T, I), (ones(1, 1, H), ones(1, 1, H)))


DY = {
    "last step only": (ones(B, H), ValueError, r"dy must have the shape of y, \(4, 3, 6\), but has \(3, 6\)"),
    "features": (ones(T, B, 2 * H), ValueError, r"dy must have the shape of y, \(4, 3, 6\), but has \(4, 3, 12\)"),
    "a number": (1.0, ValueError, r"dy must have the shape of y, \(4, 3, 6\), but has \(\)"),
    "float64": (ones(T, B, H, dtype=np.float64), TypeError, r"dy must have the layer's dtype float32, but has float64"),
    "None": (None, (TypeError, ValueError), r"dy must "),
}


@pytest.mark.parametrize(("dy", "error", "message"), DY.values(), ids=DY)
def test_dy_refused_and_the_tape_still_good(dy: Any, error: Any, message: str) -> None:
    lstm = LSTM(I, H, seed=0)
    tape = lstm.forward(ones(T, B, I))[2]
    with pytest.raises(error, match=message):
        lstm.backward(tape, dy)
    assert np.isfinite(lstm.backward(tape, ones(T, B, H))[0]).all()


def test_tape_refused() -> None:
    lstm = LSTM(I, H, seed=0)
    with pytest.raises(TypeError, match=r"tape must be what forward returned, but was tuple"):
        lstm.backward(lstm.forward(ones(T, B, I)), ones(T, B, H))
    tape = lstm.forward(ones(T, B, I))[2]
    lstm.backward(tape, ones(T, B, H))
    with pytest.raises(ValueError, match=r"tape must be fresh from forward, but backward has spent it"):
        lstm.backward(tape, ones(T, B, H))


# --- odd, but good ----------------------------------------------------------------------------------------------------


def strided(array: np.ndarray) -> np.ndarray:
    """The same values, every other element of a larger array on each axis."""
    large = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    view = large[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def backwards(array: np.ndarray) -> np.ndarray:
    """The same values, with negative strides."""
    turned = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[turned])[turned]


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.setflags(write=False)
    return copy


def misaligned(array: np.ndarray) -> np.ndarray:
    """The same values, one byte beside where elements of their size belong."""
    copy = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def padded_rows(array: np.ndarray) -> np.ndarray:
    """The same values as a slice of wider rows."""
    wide = np.full((*array.shape[:-1], array.shape[-1] + 3), np.nan, array.dtype)
    wide[..., 1 : 1 + array.shape[-1]] = array
    return wide[..., 1 : 1 + array.shape[-1]]


def repeated(array: np.ndarray) -> np.ndarray:
    """The first row of every axis but the last, with strides of 0."""
    return np.broadcast_to(array[(0,) * (array.ndim - 1)], array.shape)


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "strided": strided,
    "backwards": backwards,
    "read-only": read_only,
    "misaligned": misaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "little-endian": lambda a: a.astype(a.dtype.newbyteorder("<")),
    "columns first": np.asfortranarray,
    "a slice of wider rows": padded_rows,
    "swapped axes": lambda a: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1),
    "broadcast": repeated,
    "nested lists": lambda a: a.tolist(),
    "a subclass": lambda a: a.view(np.ma.MaskedArray),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_arrays_of_every_kind(kind: Callable[[np.ndarray], Any], options: dict[str, Any], dtype: str) -> None:
    lstm = LSTM(I, H, dtype=dtype, seed=0, **options)
    rng, D, layers = np.random.default_rng(1), lstm.directions, lstm.num_layers
    outer = (B, T) if lstm.batch_first else (T, B)
    shapes = {"x": (*outer, I), "dy": (*outer, D * H)} | dict.fromkeys(
        ("h_0", "c_0", "dh_n", "dc_n"), (D * layers, B, H)
    )
    odd = {name: kind(rng.standard_normal(shape).astype(dtype)) for name, shape in shapes.items()}
    plain = {name: np.array(value, dtype) for name, value in odd.items()}

    def run(a: dict[str, Any]) -> list[np.ndarray]:
        y, state, tape = lstm.forward(a["x"], (a["h_0"], a["c_0"]))
        dx, dstate, grads = lstm.backward(tape, a["dy"], [a["dh_n"], a["dc_n"]])
        return [y, *state, dx, *dstate, *grads.values(), *lstm(a["x"], [a["h_0"], a["c_0"]])[1]]

    for found, wanted in zip(run(odd), run(plain), strict=True):
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, wanted)
    for name, value in odd.items():
        np.testing.assert_array_equal(np.array(value, dtype), plain[name], err_msg=f"{name} was written to")


@pytest.mark.parametrize("rows", ["dense", "lengths", "packed"])
@pytest.mark.parametrize("merge", ["sum", "mul", "ave", "none"])
def test_how_directions_meet(merge: str, rows: str) -> None:
    """As of the layer that puts them side by side, and its gradients of what was merged."""
    lstm, plain = (LSTM(I, H, bidirectional=True, merge=mode, seed=0) for mode in (merge, "concat"))
    random = np.random.default_rng(0)
    x: Any = random.standard_normal((T, B, I), dtype=np.float32)
    lengths = [T, 1, 0] if rows == "lengths" else None
    if rows == "packed":
        x = PackedSequence(x[:2].reshape(-1, I)[:5], [3, 2])
    whole, _, tape_of_plain = plain.forward(x, lengths=lengths)
    y, _, tape = lstm.forward(x, lengths=lengths)

    def values(array: Any) -> Any:
        return array.data if isinstance(array, PackedSequence) else array

    both = values(whole)
    forth, back = np.split(both, 2, -1)
    found = tuple(map(values, y)) if merge == "none" else values(y)
    np.testing.assert_array_equal(found, reference.merge(both, merge))
    dy: Any = random.standard_normal(forth.shape, dtype=np.float32)
    factors = {"sum": (1, 1), "ave": (0.5, 0.5), "mul": (back, forth), "none": (1, 2)}[merge]
    d = np.concatenate([dy * np.asarray(factor, np.float32) for factor in factors], -1)
    dx, _, grads = lstm.backward(tape, (dy, 2 * dy) if merge == "none" else dy)
    wanted, _, theirs = plain.backward(tape_of_plain, d)
    np.testing.assert_array_equal(values(dx), values(wanted))
    for name, array in theirs.items():
        np.testing.assert_array_equal(grads[name], array)


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    lstm = LSTM(I, H, seed=0)
    x = torch.randn(T, B, I)
    np.testing.assert_array_equal(lstm(x)[0], lstm(x.numpy())[0])


def test_numpy_numbers_as_sizes() -> None:
    lstm = LSTM(np.int64(I), np.uint8(H), np.int32(2), np.bool_(True), dropout=np.float32(0.5))
    assert repr(lstm) == "LSTM(5, 6, num_layers=2, dropout=0.5)"
    with pytest.raises(ValueError, match=r"batch_size must be at least 1"):
        lstm.stream(0)


@pytest.mark.parametrize(
    ("n", "error"),
    [(0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError), (None, TypeError)],
)
def test_set_num_threads_refuses(n: Any, error: type[Exception]) -> None:
    before = fastlstm.get_num_threads()
    with pytest.raises(error, match=rf"n must be (at least 1|an integer), but was {n!r}"):
        fastlstm.set_num_threads(n)
    assert fastlstm.get_num_threads() == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize("T", [1, 40])
def test_a_tape_goes_with_its_layer(T: int, copied: Callable[[Any], Any]) -> None:
    """Copied, and loaded, with what it is for: gradients are those of the original."""
    lstm = LSTM(3, 5, seed=0)
    for _ in range(2):  # the second time as a call as one before
        y, _, tape = lstm.forward(np.ones((T, 2, 3), np.float32))
        other, other_tape = copied((lstm, tape))
        expected, found = lstm.backward(tape, y)[2], other.backward(other_tape, y)[2]
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-5)
