"""What a `state_dict` of the array loop holds, under which names, and what is refused.

How one gets into a file is _files.py.
"""

from collections.abc import Mapping

from lookahead_core import SyncRule
from lookahead_core.checkpoint import check_settings, counters, settings
from lookahead_core.leaves import averaged, chosen, copied
from lookahead_core.namespace import is_array
from lookahead_core.state import SyncState
from lookahead_core.typing import Array

from ._tree import StateDict, written

__all__ = ["check_entries", "check_ours", "loaded", "saved"]

Arrays = Mapping[str, Array]


def saved(rule: SyncRule, state: SyncState, names: list[str], inner: Arrays) -> StateDict:
    """Settings of the rule, counters, and copies of the arrays of its state.

    Parameters
    ----------
    rule, state
        Of the optimizer.
    names : list of str
        The path of each leaf.
    inner : mapping of str to array
        The inner state.
    """
    counts = {"count": state.count, "syncs": state.syncs}
    arrays = {**_weights(state, names), **_inner_slow(rule, state, inner)}
    return {**settings(rule), **counts, **{name: copied(leaf) for name, leaf in arrays.items()}}


def check_ours(
    entries: StateDict, rule: SyncRule, state: SyncState, names: list[str], inner: Arrays
) -> None:
    """Raise ValueError unless `entries` are those of `saved`, of an optimizer like this one."""
    arrays = {**_weights(state, names), **_inner_slow(rule, state, inner)}
    check_entries(entries, arrays, {*settings(rule), "count", "syncs"})
    check_settings(entries, rule)
    counters(entries, rule)


def loaded(
    entries: StateDict, rule: SyncRule, state: SyncState, names: list[str], inner: Arrays
) -> SyncState:
    """The state that `entries` hold, in the arrays of `state`; `check_ours` has seen that it fits.

    The slow copy of the inner state is a new one: it may hold other moments than the last one did.
    """
    count, syncs = counters(entries, rule)
    weights = iter([written(leaf, entries[name]) for name, leaf in _weights(state, names).items()])
    copies = _inner_slow(rule, state, inner).items()
    return SyncState(
        slow=[next(weights) for _ in state.slow],
        count=count,
        syncs=syncs,
        outer=[[next(weights) for _ in slot] for slot in state.outer],
        inner_slow=[written(copied(leaf), entries[name]) for name, leaf in copies],
    )


def check_entries(entries: StateDict, arrays: Arrays, numbers: set[str]) -> None:
    """Raise ValueError unless `entries` has these names, and arrays of these shapes and dtypes."""
    expected = {*arrays, *numbers}
    if expected != set(entries):
        missing, unknown = expected - set(entries), set(entries) - expected
        raise ValueError(
            f"state_dict must have the entries of this optimizer; missing {sorted(missing)}, "
            f"unknown {sorted(unknown)}"
        )
    for name, leaf in arrays.items():
        entry = entries[name]
        if not is_array(entry) or entry.shape != leaf.shape or entry.dtype != leaf.dtype:
            got = f"{tuple(entry.shape)} {entry.dtype}" if is_array(entry) else repr(entry)
            raise ValueError(
                f"state_dict[{name!r}] must have shape and dtype {tuple(leaf.shape)} "
                f"{leaf.dtype}, got {got}"
            )


def _weights(state: SyncState, names: list[str]) -> dict[str, Array]:
    """The slow weights and the state of the outer rule, by name."""
    slow = zip(names, state.slow, strict=True)
    # A slot has an array for each leaf that is averaged.
    moved = chosen(names, averaged(state.slow))
    slots = {
        f"outer/{index}/{name}": leaf
        for index, slot in enumerate(state.outer)
        for name, leaf in zip(moved, slot, strict=True)
    }
    return {**{f"slow/{name}": leaf for name, leaf in slow}, **slots}


def _inner_slow(rule: SyncRule, state: SyncState, inner: Arrays) -> dict[str, Array]:
    """The slow copy of the inner state, by name; empty unless the rule interpolates it.

    Between two cycles it is the inner state as it is: the next cycle takes its copy from there, and
    moments may have been removed since the last one.
    """
    if rule.inner_state != "interpolate":
        return {}
    copies = inner.values() if rule.fast_is_slow(state) else state.inner_slow
    return {f"inner_slow/{name}": leaf for name, leaf in zip(inner, copies, strict=True)}
