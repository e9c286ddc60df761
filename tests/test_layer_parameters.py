"""Parameters: their names, their start, their change between calls; dropout, which draws from the layer's seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layer_case import LayerCase

from fastlstm import LSTM, reference


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 3}, {"bias": False}, {"bidirectional": True, "num_layers": 2}], ids=str
)
def test_names_and_shapes_are_torchs(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    expected = {name: tuple(p.shape) for name, p in torch.nn.LSTM(4, 7, **options).named_parameters()}
    lstm = LSTM(4, 7, **options)
    assert {name: array.shape for name, array in lstm.parameters.items()} == expected
    assert list(lstm.state_dict()) == list(expected)
    assert all(array.dtype == np.float32 for array in lstm.parameters.values())


def test_start_is_uniform_and_seeded() -> None:
    first, again, other, double = (
        LSTM(30, 64, dtype=d, seed=s).state_dict() for d, s in (("f4", 1), ("f4", 1), ("f4", 2), ("f8", 1))
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])
        np.testing.assert_array_equal(array, double[name].astype(np.float32))
        assert 0.11 < abs(array).max() <= 64**-0.5
        assert abs(array.mean()) < 4 * 64**-0.5 / np.sqrt(3 * array.size)
    assert not np.array_equal(LSTM(3, 4).parameters["weight_ih_l0"], LSTM(3, 4).parameters["weight_ih_l0"])


@pytest.mark.parametrize("name", list(LSTM(3, 17, num_layers=2, bidirectional=True).parameters))
def test_a_change_in_place_is_seen_by_the_next_call(name: str) -> None:
    case = LayerCase(T=4, B=3, I=3, H=17, layers=2, bidirectional=True, dtype="float64")
    case.found(), case.inferred()
    array = case.lstm.parameters[name]
    array.flat[array.size // 2] += 0.5
    found, inferred, fresh = case.found(), case.inferred(), LSTM(3, 17, 2, bidirectional=True, dtype="float64")
    fresh.load_state_dict(case.lstm.parameters)
    y, _, tape = fresh.forward(case.arrays["x"], (case.arrays["h_0"], case.arrays["c_0"]))
    dx, _, grads = fresh.backward(tape, case.arrays["dy"], (case.arrays["dh_n"], case.arrays["dc_n"]))
    for changed, wanted in ((found["y"], y), (inferred["y"], y), (found["dx"], dx), (found[name], grads[name])):
        np.testing.assert_array_equal(changed, wanted)


def test_a_swap_of_two_equal_sums_is_seen() -> None:
    """Changes that leave every sum of the parameters as it was: a swap of units, of signs."""
    case = LayerCase(T=4, B=2, I=8, H=16)
    w = case.lstm.parameters["weight_hh_l0"]
    before = case.inferred()["y"]
    w[[0, 1]] = w[[1, 0]]
    swapped = case.inferred()["y"]
    assert not np.array_equal(swapped, before)
    w[[0, 1]] = w[[1, 0]]
    np.testing.assert_array_equal(case.inferred()["y"], before)
    w[2] *= -1
    w[3] *= -1
    assert not np.array_equal(case.inferred()["y"], before)


def test_a_stream_keeps_the_parameters_that_it_was_made_with() -> None:
    case = LayerCase(T=3, B=1, I=4, H=5)
    stream, whole = case.lstm.stream(), case.lstm(case.arrays["x"])[0]
    for array in case.lstm.parameters.values():
        array[...] = 0
    np.testing.assert_array_equal([stream.step(x) for x in case.arrays["x"]], whole)


def test_state_dict_is_a_copy_and_parameters_are_not() -> None:
    lstm = LSTM(3, 4, seed=0)
    copies, kept = lstm.state_dict(), lstm.state_dict()
    copies["weight_ih_l0"][...] = 9
    np.testing.assert_array_equal(lstm.parameters["weight_ih_l0"], kept["weight_ih_l0"])
    with pytest.raises(TypeError, match="does not support item assignment"):
        lstm.parameters["weight_ih_l0"] = copies["weight_ih_l0"]  # type: ignore[index]
    lstm.load_state_dict(copies)
    copies["weight_ih_l0"][...] = 7
    assert (lstm.parameters["weight_ih_l0"] == 9).all()


def test_load_from_torch_and_back() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(3, 6, num_layers=2, bidirectional=True)
    lstm = LSTM(3, 6, num_layers=2, bidirectional=True)
    lstm.load_state_dict({name: parameter.detach() for name, parameter in module.named_parameters()})
    lstm.load_state_dict(module.state_dict())
    for name, parameter in module.named_parameters():
        np.testing.assert_array_equal(lstm.parameters[name], parameter.detach().numpy())
    module.load_state_dict({name: torch.from_numpy(array) for name, array in lstm.state_dict().items()})


def test_load_state_dict_lists_every_fault_and_copies_nothing() -> None:
    lstm = LSTM(3, 4, seed=0)
    kept, given = lstm.state_dict(), {name: np.ones_like(array) for name, array in lstm.parameters.items()}
    del given["bias_hh_l0"]
    given |= {
        "weight_ih_l0": np.ones((16, 5)),
        "weight_hh_l0": np.ones((16, 4), int),
        "weight_hr_l0": np.ones(2),
        "extra": np.ones(1),
    }
    with pytest.raises(ValueError, match="state_dict does not fit this layer") as caught:
        lstm.load_state_dict(given)
    for fault in (
        "missing bias_hh_l0 (16,)",
        "unexpected weight_hr_l0",
        "unexpected extra",
        "weight_ih_l0 must have the shape (16, 3), but has (16, 5)",
        "weight_hh_l0 must be of a floating dtype, but is of int64",
    ):
        assert fault in str(caught.value)
    for name, array in kept.items():
        np.testing.assert_array_equal(lstm.parameters[name], array)
    with pytest.raises(TypeError, match="state_dict must be a mapping from names to arrays, but was list"):
        lstm.load_state_dict([("weight_ih_l0", 1)])  # type: ignore[arg-type]


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_with_one_layer_warns() -> None:
    with pytest.warns(
        UserWarning, match=r"dropout acts between layers, and there is one only: dropout=0\.5 has no effect"
    ):
        lstm = LSTM(3, 4, dropout=0.5, seed=0)
    x = np.ones((2, 1, 3), np.float32)
    np.testing.assert_array_equal(lstm.forward(x)[0], lstm(x)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropout_is_the_references_with_the_tapes_masks(rate: float, bidirectional: bool) -> None:
    lstm = LSTM(4, 9, num_layers=3, dropout=rate, bidirectional=bidirectional, dtype="float64", seed=3)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((6, 5, 4)), rng.standard_normal((6, 5, 9 * lstm.directions))
    y, _, tape = lstm.forward(x)
    masks = tape.drawn
    assert len(masks) == (2 if rate else 0)
    wanted, _, reference_tape = reference.forward(
        dict(lstm.parameters), x, num_layers=3, bidirectional=bidirectional, masks=masks
    )
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-14)
    dx, _, grads = lstm.backward(tape, dy)
    dx_wanted, _, grads_wanted = reference.backward(reference_tape, dy)
    for found, expected in ((dx, dx_wanted), *((grads[name], grads_wanted[name]) for name in grads)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * max(1, abs(expected).max()))


def test_dropout_drops_at_its_rate_in_forward_alone_and_by_the_seed() -> None:
    def masks(seed: int) -> np.ndarray:
        drawn = LSTM(4, 32, 2, dropout=0.25, seed=seed).forward(x)[2].drawn
        return np.concatenate([mask.ravel() for mask in drawn.values()])

    x = np.random.default_rng(0).standard_normal((50, 20, 4)).astype(np.float32)
    found = masks(5)
    np.testing.assert_array_equal(np.unique(found), np.float32([0, 4 / 3]))
    assert abs((found == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / found.size)
    np.testing.assert_array_equal(found, masks(5))
    assert not np.array_equal(found, masks(6))
    lstm = LSTM(4, 32, 2, dropout=0.25, seed=5)
    np.testing.assert_array_equal(lstm(x)[0], lstm(x)[0])
    assert not np.array_equal(lstm.forward(x)[0], lstm.forward(x)[0])
