"""What a checkpoint says of the rule that made it: a run resumes under the same rule or not at all.

Names and numbers only; where they are kept, and the arrays beside them, is an adapter's matter.
A schedule of alpha is in the code and an array may be learned, so a checkpoint says of either that
it is one, and not which.
"""

from collections.abc import Mapping
from operator import index
from typing import Any

from lookahead_core.rule import SyncRule

__all__ = ["check_settings", "counters", "settings"]


def settings(rule: SyncRule) -> dict[str, int | float | str]:
    """The settings of `rule` by name, as plain numbers and strings."""
    return {
        "sync_period": rule.sync_period,
        "alpha": _told(rule.outer.alpha),
        "inner_state": rule.inner_state,
    }


def check_settings(saved: Mapping[str, Any], rule: SyncRule) -> None:
    """Raise ValueError unless `saved` holds the settings of `rule` (clause C06)."""
    for name, ours in settings(rule).items():
        if saved.get(name) != ours:
            raise ValueError(
                f"the checkpoint was made with {name}={saved.get(name)!r}, this optimizer has "
                f"{name}={ours!r}; construct it with the checkpoint's"
            )


def counters(saved: Mapping[str, Any], rule: SyncRule) -> tuple[int, int]:
    """`count` and `syncs` of a checkpoint, or ValueError if they cannot be those of `rule`.

    A count beyond the period would never come to a sync again.
    """
    count, syncs = (_whole(name, saved.get(name)) for name in ("count", "syncs"))
    if count >= rule.sync_period:
        raise ValueError(
            f"the checkpoint's count must be below sync_period={rule.sync_period}, got {count}"
        )
    return count, syncs


def _told(alpha: Any) -> float | str:
    if callable(alpha):
        return "a schedule"
    return alpha if isinstance(alpha, float) else "an array"


def _whole(name: str, value: Any) -> int:
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"the checkpoint's {name} must be an int >= 0, got {value!r}")
    return number
