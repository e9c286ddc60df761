"""The digest that tells whether parameters changed: every single bit, every swap, every pair of signs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastlstm.passes import packing
from fastlstm.runtime.variant import Variant
from fastlstm.simd.isa import target

VARIANT = Variant()


def digest(*arrays: np.ndarray) -> bytes:
    return packing.digest(VARIANT, list(arrays))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 127, 128, 129, 300])
def test_every_bit_counts(count: int) -> None:
    array = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    bits, before = array.view(np.uint32), digest(array)
    for k, bit in itertools.product(range(count), range(32)):
        bits[k] ^= np.uint32(1 << bit)
        assert digest(array) != before, (k, bit)
        bits[k] ^= np.uint32(1 << bit)
    assert digest(array) == before


@pytest.mark.parametrize("value", ["normal", "constant but for signs"])
def test_every_pair_of_signs_counts(value: str) -> None:
    """Also of words that follow each other in the same state: two groups of twice all states' lanes, and a rest."""
    rng, count = np.random.default_rng(0), 4 * (target().digest_words - 1) + 24
    array = (rng.standard_normal(count) if value == "normal" else rng.choice([-1, 1], count)).astype(np.float32)
    before = digest(array)
    for i, k in itertools.combinations(range(len(array)), 2):
        array[[i, k]] *= -1
        assert digest(array) != before, (i, k)
        array[[i, k]] *= -1
    array *= -1
    assert digest(array) != before


def test_every_swap_counts() -> None:
    array = np.random.default_rng(0).standard_normal(280).astype(np.float32)
    before = digest(array)
    for i, k in itertools.combinations(range(len(array)), 2):
        array[[i, k]] = array[[k, i]]
        assert digest(array) != before, (i, k)
        array[[i, k]] = array[[k, i]]
    for shift in (1, 16, 128):
        assert digest(np.roll(array, shift)) != before, shift


def test_zeros_of_each_length_differ() -> None:
    """Nothing but zeros has a digest too, and so has nothing at all."""
    sizes = [1, 2, 3, 16, 17, 128, 256, 257]
    found = [digest(np.zeros(n, np.float32)) for n in sizes]
    ones = [digest(np.ones(n, np.float32)) for n in sizes]
    assert len(set(ones)) == len(sizes)
    assert not set(found) & set(ones)


def test_a_sign_of_zero_and_a_nan_count() -> None:
    array = np.zeros(40, np.float64)
    seen = {digest(array)}
    for value in (-0.0, np.nan, 5e-324):
        array[7] = value
        seen.add(digest(array))
        seen.add(digest(array))
    assert len(seen) == 4


def test_each_of_four_arrays_counts() -> None:
    arrays = [np.random.default_rng(k).standard_normal(n) for k, n in enumerate((200, 33, 4, 5))]
    seen = {digest(*arrays[:n]) for n in range(1, 5)}
    for array in arrays:
        array[-1] += 1
        seen.add(digest(*arrays))
    assert len(seen) == 8
    assert digest(*arrays) == digest(*(array.copy() for array in arrays)), "where an array lies does not count"
    assert len(digest(*arrays)) == 4 * target().digest_words
