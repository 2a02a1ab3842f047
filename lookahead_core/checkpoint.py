"""What a checkpoint says of the rule that made it: a run resumes under the same rule or not at all.

Names and numbers only; where they are kept, and the arrays beside them, is an adapter's matter.
A schedule is in the code and an array may be learned, so a checkpoint says of either that it is
one, and not which.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from lookahead_core.namespace import is_array
from lookahead_core.outer import Interpolate
from lookahead_core.rule import SyncRule
from lookahead_core.schedule import length, remaining
from lookahead_core.settings import is_real_scalar
from lookahead_core.state import SyncState
from lookahead_core.validation import int_at_least, shown

__all__ = ["check_settings", "counter", "counters", "settings"]


def settings(rule: SyncRule, syncs: int | None = None) -> dict[str, int | float | str]:
    """The settings of `rule` by name, as plain numbers and strings.

    Of a schedule and of a 0-d array that it is one; with `syncs`, what it is at the sync that
    follows so many others.
    """
    outer = rule.outer
    # alpha by itself: torch users may move it in a parameter group.
    alpha = {"alpha": _told(outer.alpha, syncs)} if isinstance(outer, Interpolate) else {}
    return {
        "sync_period": _told(rule.sync_period, syncs),
        "outer": "Interpolate" if alpha else _told(outer, syncs),
        **alpha,
        "inner_state": rule.inner_state,
        "restart": rule.restart,
        "restart_period": rule.restart_period,
        "start": rule.start,
    }


def check_settings(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise ValueError unless `saved` holds all of the settings `ours` (clause C06)."""
    for name, own in ours.items():
        value = saved.get(name)
        # True equals 1, and whether an array does may be an array.
        if isinstance(value, bool) or is_array(value) or value != own:
            raise ValueError(
                f"the checkpoint was made with {name}={value!r}, this optimizer has "
                f"{name}={own!r}; construct it with the checkpoint's"
            )


def counters(saved: Mapping[str, Any], rule: SyncRule) -> SyncState:
    """The counters of a checkpoint, without arrays.

    Raises
    ------
    ValueError
        If another rule made the checkpoint, or the counters cannot be those of `rule`: a count
        beyond the period would never come to a sync again.
    """
    check_settings(saved, settings(rule))
    count = counter("the checkpoint's count", saved.get("count"), -rule.start)
    syncs = counter("the checkpoint's syncs", saved.get("syncs"))
    # A cycle is longer where its period was, or where its mean is still on its way.
    period = length(rule.sync_period, syncs, count)
    least = -abs(count) - period
    phase = counter("the checkpoint's phase", saved.get("phase", 0), least)
    if remaining(count, period, phase) < 1:
        raise ValueError(f"the checkpoint's count must be below sync_period={period}, got {count}")
    return SyncState((), count, syncs, (), (), phase)


def counter(name: str, value: Any, least: int = 0) -> int:
    """`value` as an int that schedules can be called with and arrays can hold, or ValueError."""
    number = int_at_least(least, name, value)
    if abs(number) >= 2**63:
        raise ValueError(f"{name} must be below 2**63, got {shown(value)}")
    return number


def _told(value: Any, syncs: int | None = None) -> Any:
    if syncs is not None:
        value = value(syncs) if callable(value) else value
        value = float(value) if is_real_scalar(value) else value
    if isinstance(value, int | float | str):
        return value
    if callable(value):
        return "a schedule"
    if is_dataclass(value):
        at = dict.fromkeys(getattr(value, "scheduled", ()), syncs)
        own = ((f.name, _told(getattr(value, f.name), at.get(f.name))) for f in fields(value))
        return f"{type(value).__name__}({', '.join(f'{name}={told!r}' for name, told in own)})"
    return "an array" if is_array(value) else type(value).__name__
