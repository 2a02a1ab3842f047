"""What a `state_dict` of the array loop holds, under which names, and what is refused.

How one gets into a file is _files.py.
"""

from collections.abc import Mapping

from lookahead_core import SyncRule
from lookahead_core.checkpoint import counters, settings
from lookahead_core.leaves import averaged, chosen, copied
from lookahead_core.namespace import is_array
from lookahead_core.state import SyncState
from lookahead_core.typing import Array

from ._tree import StateDict, written

__all__ = ["check_entries", "check_named", "check_ours", "loaded", "named_arrays"]

Arrays = Mapping[str, Array]


def named_arrays(
    rule: SyncRule, state: SyncState, names: list[str], inner: Arrays
) -> dict[str, Array]:
    """The arrays of `state` by their names in a `state_dict`.

    Between two cycles the slow copy of the inner state is the inner state as it is: the next cycle
    takes its copy from there, and moments may have been removed since the last one.

    Parameters
    ----------
    rule, state
        Of the optimizer.
    names : list of str
        The path of each leaf.
    inner : mapping of str to array
        The inner state.
    """
    kinds = {"slow": zip(names, state.slow, strict=True)}
    moved = chosen(names, averaged(state.slow))
    for index, slot in enumerate(state.outer):
        kinds[f"outer/{index}"] = zip(moved, slot, strict=True)
    if rule.inner_state == "interpolate":
        copies = inner.values() if rule.fast_is_slow(state) else state.inner_slow
        kinds["inner_slow"] = zip(inner, copies, strict=True)
    return {f"{kind}/{name}": leaf for kind, leaves in kinds.items() for name, leaf in leaves}


def check_ours(entries: StateDict, rule: SyncRule, arrays: Arrays) -> None:
    """Raise ValueError unless `entries` are of an optimizer with this rule and these arrays."""
    check_entries(entries, arrays, {*settings(rule), "count", "syncs"})
    counters(entries, rule)


def loaded(entries: StateDict, rule: SyncRule, state: SyncState, arrays: Arrays) -> SyncState:
    """The state that `entries` hold, which `check_ours` has seen to fit.

    It is written into the arrays of `state`, but for the slow copy of the inner state: between two
    cycles `arrays` has the inner state itself in its place.
    """
    new = iter(
        [
            written(copied(leaf) if name.startswith("inner_slow/") else leaf, entries[name])
            for name, leaf in arrays.items()
        ]
    )
    return counters(entries, rule)._replace(
        slow=[next(new) for _ in state.slow],
        outer=[[next(new) for _ in slot] for slot in state.outer],
        inner_slow=list(new),
    )


def check_named(entries: StateDict) -> None:
    """Raise ValueError unless `entries` has names and what belongs to them."""
    if not isinstance(entries, Mapping) or not all(isinstance(name, str) for name in entries):
        given = [*entries] if isinstance(entries, Mapping) else entries
        raise ValueError(
            f"state_dict must be a mapping of names, as state_dict() gives, got {given!r:.200}"
        )


def check_entries(entries: StateDict, arrays: Arrays, numbers: set[str]) -> None:
    """Raise ValueError unless `entries` has these names, and arrays of these shapes and dtypes."""
    check_named(entries)
    expected = {*arrays, *numbers}
    if expected != entries.keys():
        missing, unknown = expected - set(entries), set(entries) - expected
        raise ValueError(
            f"state_dict must have the entries of this optimizer; missing {sorted(missing)}, "
            f"unknown {sorted(unknown)}"
        )
    for name, leaf in arrays.items():
        entry = entries[name]
        known = type(entry) is type(leaf) or is_array(entry)
        if not known or entry.shape != leaf.shape or entry.dtype != leaf.dtype:
            got = f"{tuple(entry.shape)} {entry.dtype}" if is_array(entry) else repr(entry)
            raise ValueError(
                f"state_dict[{name!r}] must have shape and dtype {tuple(leaf.shape)} "
                f"{leaf.dtype}, got {got}"
            )
