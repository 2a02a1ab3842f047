"""A fragment whose mean over the workers has been taken and is not yet applied."""

from typing import Any, NamedTuple

from .._state import LookaheadState

__all__ = ["InFlight"]


class InFlight(NamedTuple):
    """State of a fragment with a delay.

    Attributes
    ----------
    fragment : LookaheadState
        As without one.
    mean : list of arrays
        The mean that was taken last; the same on all workers.
    """

    fragment: LookaheadState
    mean: list[Any]
