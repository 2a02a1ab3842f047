"""What `MetaOptimizer` needs from an inner optimizer."""

from collections.abc import Mapping
from typing import Protocol

from lookahead_core.typing import Array

from .._tree import StateDict, Tree

__all__ = ["InnerOptimizer"]


class InnerOptimizer(Protocol):
    """What `MetaOptimizer` needs from an optimizer of yours.

    Attributes
    ----------
    params : tree of arrays
        The fast weights. `step` changes them in place, or rebinds the attribute to a new tree; so
        does a sync.
    state : mapping of str to array
        Live moments and counts, zero at the start; changed in place, or rebound. May be empty.
    """

    params: Tree
    state: Mapping[str, Array]

    def step(self, grads: Tree) -> None:
        """One update from a tree like `params`; None in the place of a leaf leaves it alone."""

    def state_dict(self) -> StateDict:
        """Flat mapping of names to arrays and numbers, all copies."""

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on where `state_dict` was taken."""
