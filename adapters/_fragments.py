"""Fragments of a streamed model: what the adapters accept, and which parameters are together."""

from collections.abc import Sequence
from typing import Any

from lookahead_core import SyncRule
from lookahead_core.validation import non_negative_int

__all__ = ["balanced", "checked_delay", "checked_period"]


def checked_period(rule: SyncRule) -> int:
    """The period of a rule that can be streamed by, else ValueError."""
    if callable(rule.sync_period):
        raise ValueError(
            "sync_period must be a number with fragments (their syncs are spread over cycles of "
            f"one length), got {rule.sync_period!r}"
        )
    if rule.inner_state != "maintain":
        raise ValueError(
            "rule must have inner_state='maintain' with fragments (the inner state has no "
            f"fragments), got {rule.inner_state!r}"
        )
    return rule.sync_period


def checked_delay(delay: Any, period: int) -> int:
    """The delay, or ValueError."""
    number = non_negative_int("delay", delay, "steps from a taking to its sync")
    if number >= period:
        raise ValueError(
            f"delay must be below sync_period={period} (a fragment must have arrived "
            f"when it is taken again), got {number}"
        )
    return number


def balanced(sizes: Sequence[int], number: int) -> list[int]:
    """The fragment of each parameter: the largest first, each to the one with the least so far."""
    totals = [(0, 0, index) for index in range(number)]
    found = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        numbers, members, index = min(totals)
        totals[index] = numbers + sizes[place], members + 1, index
        found[place] = index
    return found
