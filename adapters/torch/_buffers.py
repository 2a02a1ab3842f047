"""Buffers of a model that are averaged with its weights: which ones, and what is kept of them.

They sync with the first parameter group and by its rule, but no inner optimizer sees them. A model
moves them in its forward pass, also between two cycles, so their slow values are what the last sync
left, and are taken from the model at the first step of the first cycle alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from lookahead_core import SyncRule, SyncState
from lookahead_core.typing import Leaves
from lookahead_core.workers import Average

from ._layout import check_like
from ._leaves import Home, Kept, assign

__all__ = ["AveragedBuffers", "Buffers"]

KEY = "buffer_"


class Buffers:
    """Buffers of a model, by patterns of their names, that are to be averaged with its weights.

    For `MetaOptimizer(..., buffers=Buffers(model, "*running_*"))`.

    Parameters
    ----------
    model : torch.nn.Module
        Whose buffers they are. They are looked up in it each time they are needed, because moving a
        model to a device puts new tensors in their place.
    *patterns : str
        Of names as `model.named_buffers()` gives them, with the wildcards of `fnmatch`.

    Attributes
    ----------
    model : torch.nn.Module
        As given.
    names : list of str
        Those that match, in the order of the model.

    Raises
    ------
    ValueError
        If a pattern matches no buffer, or one that matches has no shape yet.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    >>> Buffers(model, "*running_*").names
    ['1.running_mean', '1.running_var']
    """

    def __init__(self, model: Module, *patterns: str) -> None:
        if not isinstance(model, Module):
            raise ValueError(f"model must be a torch.nn.Module, got {model!r}")
        self.model, known = model, dict(model.named_buffers())
        for pattern in patterns or ("",):
            if not isinstance(pattern, str) or not any(fnmatchcase(n, pattern) for n in known):
                raise ValueError(
                    "patterns must each match a buffer of the model, which has "
                    f"{', '.join(known) or 'none'}, got {pattern!r}"
                )
        self.names = [name for name in known if any(fnmatchcase(name, p) for p in patterns)]
        if lazy := [name for name in self.names if is_lazy(known[name])]:
            raise ValueError(f"{lazy[0]} must have a shape: run one forward of the model first")

    def now(self) -> dict[str, Tensor]:
        """The buffers as the model has them."""
        return {name: self.model.get_buffer(name) for name in self.names}


@dataclass(eq=False)
class AveragedBuffers:
    """What an optimizer keeps of such buffers.

    Attributes
    ----------
    which : Buffers
        As given.
    home : Home
        In which dtype slow values live; they are on the devices of their buffers.
    kept : dict
        What is kept of each, by its name.
    """

    which: Buffers
    home: Home
    kept: dict[str, Kept] = field(default_factory=dict)

    @classmethod
    def of(cls, which: Any, rule: SyncRule, home: Home) -> "AveragedBuffers | None":
        """Of what the user gave, or ValueError; None for None."""
        if which is None:
            return None
        if not isinstance(which, Buffers):
            raise ValueError(f"buffers must be Buffers(model, patterns...), got {which!r}")
        if not (getattr(rule.outer, "interpolates", False) and rule.leafwise):
            raise ValueError(
                "buffers need a rule that interpolates, by an alpha that is not estimated: past "
                f"what it has seen, a variance may become negative; got {rule.outer!r}"
            )
        return cls(which, Home(home.dtype)).anew(rule)

    def anew(self, rule: SyncRule) -> "AveragedBuffers":
        """The same, with slow values that are the buffers as they are now."""
        now = self.which.now()
        return replace(self, kept={name: self.home.new(rule, now[name]) for name in now})

    # --- steps; `state` has the counters of the part that they sync with ---

    def begin(self, rule: SyncRule, state: SyncState) -> None:
        """Before an inner step: take them, if the first cycle begins."""
        now = [*self.which.now().values()]
        begun = _apart(rule).begin(now, (), self._with(state))
        assign(self._slow(), begun.slow)

    def sync(self, rule: SyncRule, state: SyncState, average: Average | Leaves | None) -> None:
        """Sync them, in place."""
        self._put(rule.sync([*self.which.now().values()], (), self._with(state), average=average))

    def step(self, rule: SyncRule, state: SyncState) -> None:
        """Sync them where `state`, whose counters are on the device, says so."""
        self._put(rule.step([*self.which.now().values()], (), self._with(state)))

    def anchor(self) -> None:
        """Take them as they are now."""
        assign(self._slow(), [*self.which.now().values()])

    # --- evaluation ---

    def eval(self, rule: SyncRule, state: SyncState) -> None:
        """Put what is to be evaluated into the model."""
        now, shown = self.which.now(), self._shown(rule, state)
        for name, buffer in now.items():
            self.kept[name].fast = buffer.clone()
        assign([*now.values()], [*shown.values()])

    def train(self) -> None:
        """Put the buffers back, bit for bit."""
        for name, buffer in self.which.now().items():
            if (fast := self.kept[name].fast) is not None:
                buffer.copy_(fast)
                self.kept[name].fast = None

    # --- checkpoints ---

    def saved(self, rule: SyncRule, state: SyncState) -> dict[str, Tensor]:
        """What a checkpoint has of them, by the names of its entries."""
        found = {}
        for number, (name, slow) in enumerate(self._shown(rule, state).items()):
            found[f"{KEY}{number}_slow"], fast = slow.clone(), self.kept[name].fast
            if fast is not None:
                found[f"{KEY}{number}_fast"] = fast
        return found

    def loaded(self, rule: SyncRule, entries: Mapping[str, Any]) -> "AveragedBuffers":
        """The same with what a checkpoint has of them, or ValueError."""
        new = self.anew(rule)
        for number, (name, buffer) in enumerate(self.which.now().items()):
            own, key = new.kept[name], f"{KEY}{number}_slow"
            check_like(name, key, entries.get(key), own.slow)
            own.slow.copy_(entries[key])
            if (fast := entries.get(f"{KEY}{number}_fast")) is not None:
                check_like(name, f"{KEY}{number}_fast", fast, buffer)
                own.fast = fast
        return new

    # --- the core's state ---

    def _slow(self) -> list[Tensor]:
        """Slow values, where the buffers are now and in no narrower dtype."""
        now = self.which.now()
        return [self.home.settled(self.kept[name], now[name]).slow for name in now]

    def _with(self, state: SyncState) -> SyncState:
        # A schedule that divides by an integer tensor would get a float32, also for float64.
        syncs = state.syncs.double() if isinstance(state.syncs, Tensor) else state.syncs
        return state._replace(slow=self._slow(), outer=(), inner_slow=(), syncs=syncs)

    def _shown(self, rule: SyncRule, state: SyncState) -> dict[str, Tensor]:
        """What is to be evaluated of each: before the first cycle the buffers themselves."""
        fast = {
            name: buffer if self.kept[name].fast is None else self.kept[name].fast
            for name, buffer in self.which.now().items()
        }
        shown = _apart(rule).slow([*fast.values()], self._with(state))
        return dict(zip(fast, shown, strict=True))

    @torch.no_grad()
    def _put(self, after: tuple[Any, Any, SyncState]) -> None:
        fast, _, state = after
        assign(self._slow(), state.slow)
        assign([*self.which.now().values()], fast)


def _apart(rule: SyncRule) -> SyncRule:
    """`rule` for what does not carry the slow values from one cycle to the next."""
    return replace(rule, restart=0.0, inner_state="maintain")
