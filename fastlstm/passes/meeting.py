"""How the parts of a call meet: each on a processor of its own, all at once, and at the barrier of their direction."""

from __future__ import annotations

from fastlstm.passes.frames import PLACES
from fastlstm.runtime.jit import inline, kernel
from fastlstm.runtime.memory import LINE, MASK
from fastlstm.simd.atomic import barrier, rendezvous
from fastlstm.simd.placing import settle, unsettle


@inline
def mask_of(meeting, parties, part):
    """Where what a part remembers of its thread stands."""
    return meeting + PLACES + 8 * parties + MASK * part


@kernel
def come(meeting, parties, part):
    """A part begins."""
    if meeting != 0 and parties > 1:
        settle(meeting + PLACES, parties, part, mask_of(meeting, parties, part))


@kernel
def go(meeting, parties, part):
    """It ends."""
    if meeting != 0 and parties > 1:
        unsettle(mask_of(meeting, parties, part))


@inline
def all_run(f, part):
    """Whether all parts of the call run at the same time, after which they may wait for each other."""
    running = rendezvous(f.meeting, f.meeting + LINE, f.parties)
    if not running:
        go(f.meeting, f.parties, part)
    return running


@inline
def meet(f, arrivals):
    """Wait for all parts of a direction."""
    if f.parts > 1:
        barrier(f.sync, arrivals + f.parts)
    return arrivals + f.parts
