"""Parameter groups: settings of their own, one counter for all, and which leaves take part.

`lookahead_alpha` and `lookahead_sync_period` in a group override the rule. The counter is one, and
so is the number of syncs: a group whose period divides another's syncs whenever that one does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import lcm
from typing import Any, TypeAlias

from torch import Tensor

from lookahead_core import Interpolate, SyncRule
from lookahead_core.validation import positive_int

__all__ = [
    "ALPHA",
    "PERIOD",
    "Group",
    "Parts",
    "by_rule",
    "leaves_of",
    "members_of",
    "period",
    "round_of",
    "rule_of",
    "told_count",
]

Group: TypeAlias = dict[str, Any]
Parts: TypeAlias = list[tuple[SyncRule, list[Group]]]

ALPHA, PERIOD = "lookahead_alpha", "lookahead_sync_period"


def period(group: Group, rule: SyncRule) -> int:
    """Steps between syncs of `group`, or ValueError."""
    if PERIOD not in group:
        return rule.sync_period
    return positive_int(PERIOD, group[PERIOD], "inner steps between syncs of a group")


def rule_of(group: Group, rule: SyncRule) -> SyncRule:
    """`rule` with the settings of `group`, or ValueError."""
    if not (ALPHA in group or PERIOD in group):
        return rule
    outer = rule.outer
    if ALPHA in group:
        if not isinstance(outer, Interpolate):
            raise ValueError(f"{ALPHA} in a group needs a rule that has an alpha, got {outer!r}")
        outer = Interpolate(group[ALPHA])
    return replace(rule, sync_period=period(group, rule), outer=outer)


def by_rule(groups: Iterable[Group], rule: SyncRule) -> Parts:
    """Groups that one call of the core can sync, under the rule of each."""
    parts: dict[Any, tuple[SyncRule, list[Group]]] = {}
    for group in groups:
        own = rule_of(group, rule)
        # Not `own`: an outer rule of the user's own need not be hashable.
        key = own.sync_period, own.outer if ALPHA in group else None
        parts.setdefault(key, (own, []))[1].append(group)
    return [*parts.values()]


def members_of(groups: Iterable[Group], slow: Mapping[Tensor, Any]) -> list[Tensor]:
    """Parameters of `groups` that take part in this cycle, each once."""
    return list(dict.fromkeys(leaf for leaf in leaves_of(groups) if leaf in slow))


def leaves_of(groups: Iterable[Group]) -> Iterator[Tensor]:
    return (leaf for group in groups for leaf in group["params"])


def round_of(groups: Iterable[Group], rule: SyncRule) -> int:
    """Steps after which all groups sync together."""
    return lcm(*(period(group, rule) for group in groups))


def told_count(count: int, groups: Iterable[Group], rule: SyncRule) -> int:
    """What the counter says: once the first cycle has begun, no more than its rest."""
    return count % round_of(groups, rule) if count > 0 else count
