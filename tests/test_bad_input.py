"""Bad input by table: each kind gives the error that names what was wrong, and leaves the layer as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastlstm

T, B, I, H = 5, 3, 4, 6
F32 = np.float32


class Kind(NamedTuple):
    """A call that is wrong."""

    name: str
    call: Callable[[], Any]
    error: type[Exception] | tuple[type[Exception], ...]
    told: str  # a part of the message


NO_NUMBER = {"a string": "3", "None": None, "a list": [3], "bytes": b"3", "a complex number": 3j, "a dict": {}}
NO_INTEGER = NO_NUMBER | {"a float": 1.5, "a whole float": 3.0, "True": True, "a fraction": Fraction(3)}
NO_FLAG = {"0": 0, "1": 1, "None": None, "a string": "yes", "a float": 1.0, "a list": [True], "an array": np.ones(2)}
NO_SIZE = {"0": 0, "-1": -1, "a large negative number": -(2**70), "NumPy's -3": np.int64(-3)}
OTHER_DTYPES = [
    "float16",
    "float64",
    "int8",
    "int32",
    "int64",
    "uint8",
    "bool",
    "complex64",
    "longdouble",
    "U3",
    "S3",
    "O",
]
NO_ARRAY = {
    "None": None,
    "a string": "x",
    "a dict": {},
    "a set": {1.0},
    "a function": len,
    "ragged lists": [[1.0], [1.0, 2.0]],
    "lists of strings": [["a"]],
    "a class": int,
    "a generator": (k for k in ()),
}


def layer(**options: Any) -> fastlstm.LSTM:
    return fastlstm.LSTM(I, H, **options, seed=0)


def ones(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.ones(shape, dtype)


def of_constructors() -> Iterator[Kind]:
    for cls, names in (
        (fastlstm.LSTM, ("input_size", "hidden_size", "num_layers")),
        (fastlstm.LSTMCell, ("input_size", "hidden_size")),
    ):
        for name in names:

            def make(value: Any, cls: Any = cls, name: str = name) -> Any:
                return cls(**{"input_size": I, "hidden_size": H, name: value})

            for told, value in NO_INTEGER.items():
                yield Kind(f"{cls.__name__} {name} {told}", lambda v=value, m=make: m(v), TypeError, name)
            for told, value in NO_SIZE.items():
                yield Kind(f"{cls.__name__} {name} {told}", lambda v=value, m=make: m(v), ValueError, name)
    for name in ("bias", "batch_first", "bidirectional"):
        for told, value in NO_FLAG.items():
            yield Kind(f"LSTM {name} {told}", lambda v=value, n=name: layer(**{n: v}), TypeError, name)
    for told, value in (NO_NUMBER | {"True": True}).items():
        yield Kind(f"LSTM dropout {told}", lambda v=value: layer(num_layers=2, dropout=v), TypeError, "dropout")
    for value in (-0.1, 1.1, math.nan, math.inf, -math.inf, 2, 10**400):
        yield Kind(
            f"LSTM dropout {value:.3}" if isinstance(value, float) else f"LSTM dropout {str(value)[:9]}",
            lambda v=value: layer(num_layers=2, dropout=v),
            ValueError,
            "dropout",
        )
    for value in ("int32", "float16", "complex64", "object", "nonsense", "longdouble", 3, [], "f4,f4", "datetime64[s]"):
        yield Kind(f"LSTM dtype {value}", lambda v=value: layer(dtype=v), TypeError, "dtype")
    for value in (-1, "a", 1.5):
        yield Kind(
            f"LSTM proj_size {value!r}", lambda v=value: layer(proj_size=v), (TypeError, ValueError), "proj_size"
        )
    yield Kind("LSTM with an unknown option", lambda: layer(hidden=3), TypeError, "hidden")
    yield Kind("LSTM without sizes", lambda: fastlstm.LSTM(), TypeError, "input_size")
    for name in ("input_size", "hidden_size"):
        for power in (62, 100):
            yield Kind(
                f"LSTM {name} 2^{power}",
                lambda n=name, p=power: fastlstm.LSTM(**{"input_size": I, "hidden_size": H, n: 2**p}),
                (ValueError, MemoryError, OverflowError),
                "",
            )


def of_inputs() -> Iterator[Kind]:
    calls: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
        "call": (lambda x: layer()(x), (T, B, I)),
        "forward": (lambda x: layer().forward(x), (T, B, I)),
        "batch first": (lambda x: layer(batch_first=True)(x), (B, T, I)),
        "cell": (lambda x: fastlstm.LSTMCell(I, H)(x), (B, I)),
        "step": (lambda x: layer().stream(B).step(x), (B, I)),
    }
    for name, (call, shape) in calls.items():
        for told, value in NO_ARRAY.items():
            yield Kind(f"{name} of {told}", lambda c=call, v=value: c(v), (TypeError, ValueError), "")
        for dtype in OTHER_DTYPES:
            yield Kind(
                f"{name} of {dtype}", lambda c=call, s=shape, d=dtype: c(np.ones(s).astype(d)), TypeError, "x must"
            )
        wrong = {
            "no axis": (),
            "one axis": (I + 1,),
            "an axis too many": (2, *shape, 1),
            "a feature too few": (*shape[:-1], I - 1),
            "a feature too many": (*shape[:-1], I + 1),
            "no feature": (*shape[:-1], 0),
        }
        for told, bad in wrong.items():
            yield Kind(f"{name} of {told}", lambda c=call, s=bad: c(ones(*s)), ValueError, "x must")
    yield Kind("call of no step", lambda: layer()(ones(0, B, I)), ValueError, "step")
    yield Kind("forward of no step", lambda: layer().forward(ones(0, I)), ValueError, "step")
    yield Kind("step of too many rows", lambda: layer().stream(B).step(ones(B + 1, I)), ValueError, "x must")
    yield Kind("step of one row of several", lambda: layer().stream(B).step(ones(I)), ValueError, "x must")


def of_states() -> Iterator[Kind]:
    good, L = ones(1, B, H), 1
    calls: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
        "state": (lambda s: layer()(ones(T, B, I), s), (L, B, H)),
        "state of forward": (lambda s: layer().forward(ones(T, B, I), s), (L, B, H)),
        "state of one sequence": (lambda s: layer()(ones(T, I), s), (L, H)),
        "state of a stream": (lambda s: setattr(layer().stream(B), "state", s), (L, B, H)),
        "state of a cell": (lambda s: fastlstm.LSTMCell(I, H)(ones(B, I), s), (B, H)),
        "dstate": (lambda s: backward(dstate=s), (L, B, H)),
    }
    for name, (call, shape) in calls.items():
        good = ones(*shape)
        for told, value in {
            "an array": good,
            "a string": "hc",
            "a number": 3,
            "an empty tuple": (),
            "h alone": (good,),
            "three arrays": (good, good, good),
            "a dict": {"h": good, "c": good},
            "a generator": (a for a in (good, good)),
        }.items():
            yield Kind(f"{name}: {told}", lambda c=call, v=value: c(v), TypeError, "state")
        for part in (0, 1):

            def pair(bad: Any, part: int = part, good: np.ndarray = good) -> tuple[Any, Any]:
                return (bad, good) if part == 0 else (good, bad)

            for told, bad in {
                "a feature too many": (*shape[:-1], H + 1),
                "an axis too many": (1, *shape),
                "an axis too few": shape[1:],
                "no element": (*shape[:-1], 0),
            }.items():
                yield Kind(
                    f"{name}: {'hc'[part]} of {told}", lambda c=call, b=bad, p=pair: c(p(ones(*b))), ValueError, "state"
                )
            for dtype in ("float64", "int32", "complex64", "O"):
                yield Kind(
                    f"{name}: {'hc'[part]} of {dtype}",
                    lambda c=call, d=dtype, p=pair, s=shape: c(p(ones(*s, dtype=d))),
                    TypeError,
                    "state",
                )


def backward(tape: Any = None, dy: Any = None, dstate: Any = None) -> Any:
    lstm = layer()
    y, _, fresh = lstm.forward(ones(T, B, I))
    return lstm.backward(fresh if tape is None else tape, y if dy is None else dy, dstate)


def of_backward() -> Iterator[Kind]:
    for told, value in {
        "a number": 3,
        "a string": "tape",
        "a tuple": (),
        "an array": ones(3),
        "a class": fastlstm.LSTM,
    }.items():
        yield Kind(f"tape: {told}", lambda v=value: backward(v), TypeError, "tape")

    def twice() -> None:
        lstm = layer()
        y, _, tape = lstm.forward(ones(T, B, I))
        lstm.backward(tape, y)
        lstm.backward(tape, y)

    def others(**options: Any) -> Callable[[], Any]:
        other = fastlstm.LSTM(**options)
        return lambda: layer().backward(other.forward(ones(T, B, other.input_size))[2], ones(T, B, H))

    for told, options in {
        "an equal layer": {},
        "a wider layer": {"hidden_size": H + 3},
        "a layer with more inputs": {"input_size": I + 1},
        "two layers": {"num_layers": 2},
        "two directions": {"bidirectional": True},
    }.items():
        yield Kind(f"a tape of {told}", others(**{"input_size": I, "hidden_size": H} | options), ValueError, "tape")

    def of_a_cell(other: Any) -> Callable[[], Any]:
        def run() -> None:
            cell = fastlstm.LSTMCell(I, H)
            for _ in range(3):  # the later ones are prepared
                (h, c), tape = cell.forward(ones(B, I))
                cell.backward(tape, (h, c))
            x = ones(B, other.input_size) if isinstance(other, fastlstm.LSTMCell) else ones(1, B, other.input_size)
            tape = other.forward(x)[-1]
            cell.backward(tape, (h, c))

        return run

    yield Kind("a cell: a tape of an equal one", of_a_cell(fastlstm.LSTMCell(I, H)), ValueError, "tape")
    yield Kind("a cell: a tape of a wider one", of_a_cell(fastlstm.LSTMCell(I, H + 30)), ValueError, "tape")
    yield Kind("a cell: a tape of a layer", of_a_cell(fastlstm.LSTM(I, H)), ValueError, "tape")
    yield Kind("a spent tape", twice, ValueError, "tape")
    for told, bad in {
        "a step too few": (T - 1, B, H),
        "a row too many": (T, B + 1, H),
        "a feature too few": (T, B, H - 1),
        "an axis too few": (T, H),
        "an axis too many": (T, B, H, 1),
        "one element": (1,),
    }.items():
        yield Kind(f"dy of {told}", lambda s=bad: backward(dy=ones(*s)), ValueError, "dy")
    for dtype in OTHER_DTYPES:
        yield Kind(f"dy of {dtype}", lambda d=dtype: backward(dy=np.ones((T, B, H)).astype(d)), TypeError, "dy")
    for told, value in NO_ARRAY.items():
        if value is not None:
            yield Kind(f"dy: {told}", lambda v=value: backward(dy=v), (TypeError, ValueError), "")


def of_parameters() -> Iterator[Kind]:
    def load(change: Callable[[dict], Any]) -> Callable[[], None]:
        def run() -> None:
            state = layer().state_dict()
            layer().load_state_dict(change(state) or state)

        return run

    for name in layer().parameters:
        yield Kind(
            f"state_dict without {name}",
            load(lambda s, n=name: {k: v for k, v in s.items() if k != n}),
            ValueError,
            name,
        )
        for told, value in {
            "too small": ones(1),
            "with an axis too many": ones(1, 4 * H, H),
            "None": None,
            "a string": "weights",
            "integers": np.ones(layer().parameters[name].shape, int),
            "complex": np.ones(layer().parameters[name].shape, complex),
        }.items():
            yield Kind(f"{name} {told}", load(lambda s, n=name, v=value: s.__setitem__(n, v)), ValueError, name)
    yield Kind(
        "state_dict with another name",
        load(lambda s: s.__setitem__("weight_hr_l0", ones(2))),
        ValueError,
        "weight_hr_l0",
    )
    for told, value in {"None": None, "a list": [1], "a string": "x", "an array": ones(2)}.items():
        yield Kind(f"state_dict: {told}", lambda v=value: layer().load_state_dict(v), TypeError, "state_dict")

    def frozen() -> None:
        lstm = layer()
        lstm.freeze()
        lstm.load_state_dict(lstm.state_dict())

    yield Kind("a frozen layer", frozen, ValueError, "frozen")
    yield Kind(
        "writing to a frozen layer",
        lambda: (m := layer()).freeze() or m.parameters["bias_ih_l0"].fill(0),
        ValueError,
        "read-only",
    )
    for told, value in NO_FLAG.items():
        yield Kind(f"freeze: {told}", lambda v=value: layer().freeze(v), TypeError, "frozen")


def of_the_rest() -> Iterator[Kind]:
    for told, value in (NO_NUMBER | {"True": True, "a float": 2.0, "nan": math.nan}).items():
        yield Kind(f"threads: {told}", lambda v=value: fastlstm.set_num_threads(v), TypeError, "n must")
    for value in (0, -1, -(2**80)):
        yield Kind(f"threads: {value}", lambda v=value: fastlstm.set_num_threads(v), ValueError, "n must")
    for told, value in NO_INTEGER.items():
        yield Kind(f"batch_size {told}", lambda v=value: layer().stream(v), TypeError, "batch_size")
        yield Kind(f"plan T {told}", lambda v=value: layer().plan(v, 1), TypeError, "T must")
        yield Kind(f"plan B {told}", lambda v=value: layer().plan(1, v), TypeError, "B must")
    for told, value in NO_SIZE.items():
        yield Kind(f"batch_size {told}", lambda v=value: layer().stream(v), ValueError, "batch_size")
        yield Kind(f"plan T {told}", lambda v=value: layer().plan(v, 1), ValueError, "T must")
    yield Kind("a stream of two directions", lambda: layer(bidirectional=True).stream(), ValueError, "bidirectional")


KINDS = [
    k for table in (of_constructors, of_inputs, of_states, of_backward, of_parameters, of_the_rest) for k in table()
]


def test_there_are_three_hundred_kinds() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 300


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_bad_input(kind: Kind) -> None:
    with pytest.raises(kind.error) as caught:
        kind.call()
    assert kind.told in str(caught.value)
    assert not isinstance(caught.value, AssertionError | KeyError | AttributeError | IndexError)


def test_what_cannot_be_allocated_is_a_memory_error_and_harms_nothing() -> None:
    """x is one step seen many times; y and the tape would take some hundred TiB."""
    lstm = layer()
    expected, _ = lstm(ones(T, B, I))
    endless = np.broadcast_to(ones(1, B, I), (2**44, B, I))
    for call in (lstm, lstm.forward):
        with pytest.raises(MemoryError):
            call(endless)
        assert np.array_equal(lstm(ones(T, B, I))[0], expected)


def test_what_is_only_read_may_be_read_only(tmp_path) -> None:
    """Arrays that nobody may write, and maps of files."""
    lstm, random = layer(), np.random.default_rng(0)
    x, h, c = (random.standard_normal(shape, dtype=F32) for shape in ((T, B, I), (1, B, H), (1, B, H)))
    y, _, tape = lstm.forward(x, (h, c))
    dx, _, grads = lstm.backward(tape, y, (h, c))
    kept = []
    for k, array in enumerate((x, h, c, y)):
        array.tofile(tmp_path / f"{k}")
        kept.append(np.memmap(tmp_path / f"{k}", F32, "r", shape=array.shape))
        array.flags.writeable = False
    for x_in, h_in, c_in, dy in ((x, h, c, y), kept):
        again, _, tape = lstm.forward(x_in, (h_in, c_in))
        dx_again, _, grads_again = lstm.backward(tape, dy, (h_in, c_in))
        assert np.array_equal(again, y) and np.array_equal(lstm(x_in, (h_in, c_in))[0], y)
        assert np.array_equal(dx_again, dx) and all(np.array_equal(grads_again[name], grads[name]) for name in grads)
