"""Parameter groups: the settings that they may override, and the parameters in them.

`lookahead_alpha` and `lookahead_sync_period` in a group override the rule. Which groups sync
together is _parts.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Tensor

from lookahead_core import SyncRule
from lookahead_core.validation import positive_int

__all__ = ["ALPHA", "PERIOD", "PREFIX", "Group", "leaves_of", "overrides", "prefixed", "rule_of"]

Group: TypeAlias = dict[str, Any]

# What is ours in the dicts of groups and states begins so.
PREFIX = "lookahead_"
ALPHA, PERIOD = f"{PREFIX}alpha", f"{PREFIX}sync_period"


def prefixed(entries: Group) -> Group:
    """`entries` under the names that they have in the dicts of the inner optimizer."""
    return {f"{PREFIX}{name}": value for name, value in entries.items()}


def rule_of(group: Group, rule: SyncRule) -> SyncRule:
    """`rule` with the settings of `group`, or ValueError."""
    if PERIOD in group:
        period, meaning = group[PERIOD], "inner steps between syncs of a group"
        if not callable(period):
            period = positive_int(PERIOD, period, meaning)
        rule = replace(rule, sync_period=period)
    if ALPHA in group:
        if not hasattr(rule.outer, "alpha"):
            raise ValueError(
                f"{ALPHA} in a group needs a rule that has an alpha, got {rule.outer!r}"
            )
        rule = rule.with_alpha(group[ALPHA])
    return rule


def overrides(groups: Iterable[Group]) -> list[Any]:
    """Each group with the settings that it overrides; compare by identity to see a change."""
    return [item for g in groups for item in (g, g.get(ALPHA), g.get(PERIOD))]


def leaves_of(groups: Iterable[Group]) -> Iterator[Tensor]:
    """The parameters of `groups`, in order; a tied one as often as it is listed."""
    return (leaf for group in groups for leaf in group["params"])
