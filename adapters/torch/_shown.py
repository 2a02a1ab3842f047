"""What `optimizer.state` shows: the inner optimizer's entries, and beside them those of ours.

Who builds a checkpoint by `optimizer.state` finds there the names of all that there is of a
parameter. What is written goes to the inner optimizer, in whose own state there is nothing of ours.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from ._checkpoint import SEAL, group_entries, seal
from ._flat import NUMBERS, numbers
from ._groups import PREFIX, prefixed
from ._inner_state import inner_leaves
from ._joint import owner
from ._parts import Parts

__all__ = ["ShownState", "theirs_alone"]


class ShownState(MutableMapping[Any, Any]):
    """The state of the inner optimizer by parameter, each with its `ShownEntries`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __getitem__(self, key: Any) -> Any:
        state, ours = self._parts.inner.state, _ours(self._parts, key)
        found = state.get(key, {}) if ours else state[key]  # may have a default, as torch's has
        return ShownEntries(found, ours) if isinstance(found, dict) else found

    def __setitem__(self, key: Any, value: Any) -> None:
        self._parts.inner.state[key] = _theirs(value)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self._parts.inner.state.pop(key, None)  # ours stay

    def clear(self) -> None:
        """Forget what the inner optimizer has; what is ours stays, and is shown."""
        self._parts.inner.state.clear()

    def __contains__(self, key: Any) -> bool:
        return key in self._parts.inner.state or bool(_ours(self._parts, key))

    def get(self, key: Any, default: Any = None) -> Any:
        """The entries of a parameter; makes none."""
        return self[key] if key in self else default  # noqa: SIM401

    def __iter__(self) -> Iterator[Any]:
        state = self._parts.inner.state
        yield from state
        yield from (leaf for leaf in self._parts.kept if leaf not in state and leaf in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def __repr__(self) -> str:
        return repr(dict(self))


# A dict too: trainers that move or copy a state ask for one.
class ShownEntries(MutableMapping[str, Any], dict[str, Any]):  # type: ignore[misc,metaclass]
    """The entries of one parameter. Ours are to be read; what is written of them is dropped."""

    def __init__(self, theirs: Any, ours: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._theirs, self._ours = theirs, ours or {}

    def __getitem__(self, key: str) -> Any:
        return self._ours[key] if key in self._ours else self._theirs[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not str(key).startswith(PREFIX):
            self._theirs[key] = value

    def __delitem__(self, key: str) -> None:
        del self._theirs[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._ours or key in self._theirs

    def __iter__(self) -> Iterator[str]:
        yield from self._theirs
        yield from self._ours

    def __len__(self) -> int:
        return len(self._theirs) + len(self._ours)

    def __repr__(self) -> str:
        return repr({key: self[key] for key in self})

    def __reduce__(self) -> Any:
        return dict, ({key: self[key] for key in self},)


def theirs_alone(state: Mapping[Any, Any]) -> defaultdict[Any, Any]:
    """A state that somebody sets, without what is ours in it."""
    return defaultdict(dict, {key: _theirs(entries) for key, entries in state.items()})


def _theirs(entries: Any) -> Any:
    if not isinstance(entries, dict) or not any(str(key).startswith(PREFIX) for key in entries):
        return entries
    return {key: entries[key] for key in entries if not str(key).startswith(PREFIX)}


def _ours(parts: Parts, leaf: Any) -> dict[str, Any]:
    """What is kept of a parameter, under the names that `state_dict()` has for it."""
    kept = parts.kept.get(leaf) if isinstance(leaf, Tensor) else None
    part = next((part for part in parts.parts if any(leaf is own for own in part.members)), None)
    if kept is None or part is None:
        return {}
    group = next(g for g in part.groups if any(leaf is own for own in g["params"]))
    state = parts.inner.state.get(leaf, {})
    stateful = bool(owner(parts.inner, group).state) or parts.is_first
    if stateful and not state and not parts.unstepped:
        return {}  # it has not been stepped, and bare Adam fails on a state that is not its own
    slots = {f"outer_{number}": slot for number, slot in enumerate(kept.slots)}
    beside = {"fast": kept.fast, "arriving": kept.arriving, "residual": kept.residual}
    found = {"slow": kept.slow, **slots}
    found |= {name: value for name, value in beside.items() if value is not None}
    if parts.rule.inner_state == "interpolate":
        alone = [{"params": [leaf]}]
        live = inner_leaves(parts.inner, alone, parts.kept, "interpolate", parts.kinds)
        copies = ((key, value) for (_, key), (value, _) in live.items())
        found |= {f"slow_{key}": kept.inner_slow.get(key, value) for key, value in copies}
    found[SEAL] = seal(state)
    tensors = len(found) + sum(isinstance(value, Tensor) for value in state.values()) + 1
    found[NUMBERS] = numbers(group_entries(parts, group, part.on_host()), tensors, leaf.device)
    return prefixed(found)
