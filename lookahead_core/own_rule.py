"""What an outer rule of one's own may get wrong, told where it can be known first (clause C76)."""

import inspect
from typing import Any

from lookahead_core.leaves import check_match, told
from lookahead_core.typing import Leaves, Slots

__all__ = ["check_outer", "check_slots", "check_updated"]

WANTED = "outer rule (init and update, see OuterRule)"
ARGUMENTS = {"init": ("slow",), "update": ("slow", "fast", "state", "context")}


def check_outer(outer: Any) -> None:
    """Raise ValueError unless `outer` has the two methods, and they take what they are given."""
    if isinstance(outer, type) or any(not hasattr(outer, name) for name in ARGUMENTS):
        raise ValueError(f"outer must be an {WANTED}, got {outer!r}")
    for name, arguments in ARGUMENTS.items():
        try:
            inspect.signature(getattr(outer, name)).bind(*arguments)
        except TypeError as error:
            raise ValueError(f"outer.{name} must take ({', '.join(arguments)}): {error}") from error
        except ValueError:  # of a compiled function Python may not know it
            continue


def check_slots(state: Any, leaves: int, source: str = "outer.init") -> None:
    """Raise ValueError unless `state` can be that of an outer rule for so many leaves."""
    slots = state if isinstance(state, tuple | list) else [None]
    if any(not isinstance(slot, tuple | list) or len(slot) != leaves for slot in slots):
        wanted = f"a tuple of slots of {leaves} arrays each, () for none"
        raise ValueError(f"{source} must return its state, {wanted}, got {told(state)}")


def check_updated(updated: Any, slow: Leaves, state: Slots) -> None:
    """Raise ValueError unless `updated` can be what `outer.update` returned for these."""
    if not isinstance(updated, tuple) or len(updated) != 2:
        raise ValueError(f"outer.update must `return slow, state`, got {told(updated)}")
    check_match("the slow weights that outer.update returns", updated[0], "slow", slow)
    check_slots(updated[1], len(slow), "outer.update")
    if len(updated[1]) != len(state):
        raise ValueError(f"outer.update must keep {len(state)} slots, got {len(updated[1])}")
