"""Frames have the addresses of a call's arrays in the order in which calls write them."""

from __future__ import annotations

from fastlstm.passes.calls import Taped
from fastlstm.passes.frames import Backward, Forward
from fastlstm.passes.packing import Transposed, Weights
from fastlstm.passes.templates import BACKWARD_ARRAYS, FORWARD_ARRAYS

GRADIENTS = "dw_ih dw_hh db dw_ch dw_ch_new dw_hr dgain_ih dgain_hh dgain_c dshift_c".split()


def test_arrays_of_a_forward_pass() -> None:
    expected = ["x", "h_0", "c_0", "y", "h_n", "c_n", *Taped._fields, *Weights._fields]
    assert [*Forward._fields[FORWARD_ARRAYS:][: len(expected)]] == expected


def test_arrays_of_a_backward_pass() -> None:
    expected = ["x", "h_0", "c_0", "dy", "dh_n", "dc_n", "dx", "dh_0", "dc_0", *Taped._fields, *Transposed._fields]
    expected += GRADIENTS
    assert [*Backward._fields[BACKWARD_ARRAYS:][: len(expected)]] == expected
