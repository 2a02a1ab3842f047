"""Parts: parameters that sync together, and what is done to them at a begin and at a sync.

A parameter group with settings of its own is a part; groups without any are one part together. Each
part has the core's state of its cycle, and the core says what is due: nothing here counts. Which
tensors a begin or a sync is about is said here. Gradients, closures and hooks are _optimizer.py.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from operator import is_
from typing import Any
from warnings import warn

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import Kernel, SyncRule, SyncState
from lookahead_core.schedule import before_first, in_phase
from lookahead_core.typing import Count, Leaves
from lookahead_core.workers import Average

from .._interrupts import whole
from ._buffers import AveragedBuffers
from ._evidence import evidence, gradients, owners
from ._groups import Group, leaves_of, overrides, rule_of
from ._inner_state import InnerName, Kind, initial, inner_leaves, plain_entries
from ._kernels import KERNELS
from ._kernels.prepared import Prepared
from ._kernels.witness import Witness
from ._leaves import Home, Kept, assign

__all__ = ["Part", "Parts"]

Live = dict[InnerName, tuple[Tensor, Kind]]


@dataclass(eq=False)
class Part:
    """Parameters that sync together.

    Attributes
    ----------
    rule : SyncRule
        When and how: the optimizer's, with the settings of these groups.
    groups : list of dict
        The parameter groups.
    state : SyncState
        The counters of its cycle: Python ints, or tensors if capturable. The arrays are kept by
        parameter, and `Parts.filled` puts them in.
    members : list of Tensor
        Parameters that take part in this cycle, each once.
    prepared : Prepared or None
        What its kernel keeps from cycle to cycle.
    witness : Witness or None
        What there was after the last sync, if that put the fast weights back.
    """

    rule: SyncRule
    groups: list[Group]
    state: SyncState
    members: list[Tensor] = field(default_factory=list)
    prepared: Prepared | None = None
    witness: Witness | None = None

    def on_host(self) -> SyncState:
        """The counters as Python ints; waits for the device if they are tensors."""
        state = self.state
        return SyncState((), int(state.count), int(state.syncs), (), (), int(state.phase))

    def keep_counters(self, state: SyncState) -> None:
        """Go on with the counters of `state`, in the same tensors if they are tensors."""
        if not isinstance(self.state.count, Tensor):
            self.state = SyncState((), state.count, state.syncs, (), (), state.phase)
            return
        for name in ("count", "syncs", "phase"):
            getattr(self.state, name).copy_(torch.as_tensor(getattr(state, name)))

    def __getstate__(self) -> dict[str, Any]:
        # Both are about the storage of these tensors, and copies of them have another.
        return {**vars(self), "prepared": None, "witness": None}


@dataclass(eq=False)
class Parts:
    """All parts of a `MetaOptimizer`, and all of it that changes.

    Lightning hands out proxies of optimizers whose attributes are their own: what is set through
    one does not reach the optimizer. Both hold this object.

    Attributes
    ----------
    inner, rule, kernel
        As the optimizer's.
    home : Home
        Where slow weights live.
    kinds : dict
        Kinds of inner state that the user has declared.
    workers : Workers or None
        Those that sync together, if there are others.
    buffers : AveragedBuffers or None
        Buffers of the model that sync with the first part.
    parts : list of Part
        As the groups were when they were last looked at; `current` looks.
    kept : dict
        What is kept of each parameter that takes part.
    elapsed : int or 0-d Tensor
        Inner steps since the clock was started: by the first cycle, or by a forced sync. It keeps
        parts of different periods in phase. A tensor if capturable.
    work : float
        What this worker has done since the last sync, if anybody says so.
    evaluating : bool
        Whether the parameters hold the slow weights.
    unstepped : bool
        Whether a mere template of the inner state was asked for since the last step (see
        _template.py).
    versions_move : bool
        Whether the inner optimizer has ever moved the version counter of a parameter.
    skipped : int
        Steps that the inner optimizer has skipped in a row.
    warned : set of str
        What was said already, and is to be said once.
    streaming : dict
        What a StreamingOptimizer saves beside all this, by name; empty without one.
    seen : list
        Settings of the groups when they were last looked at.
    inner_steps : int
        Steps of the inner optimizer since the last of ours began (see _hooks.py).
    """

    inner: Optimizer
    rule: SyncRule
    kernel: str
    home: Home
    kinds: dict[str, str]
    workers: Any = None
    buffers: AveragedBuffers | None = None
    parts: list[Part] = field(default_factory=list)
    kept: dict[Tensor, Kept] = field(default_factory=dict)
    elapsed: Count = 0
    work: float = 0.0
    evaluating: bool = False
    unstepped: bool = False
    versions_move: bool = False
    skipped: int = 0
    warned: set[str] = field(default_factory=set)
    streaming: dict[str, Any] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)
    inner_steps: int = 0

    def whole(self, needed: bool = True) -> AbstractContextManager[None]:
        """Context in which Ctrl-C waits: what is done there is done whole (clause C88).

        With many workers it does not: one may be waited for that never comes.
        """
        return whole(needed and self.workers is None and not torch.compiler.is_compiling())

    def warn_once(self, message: str, stacklevel: int) -> None:
        """Say it, but for the first time only."""
        if message not in self.warned:
            self.warned.add(message)
            warn(message, stacklevel=stacklevel + 1)

    # --- which parts there are ---

    def current(self) -> list[Part]:
        """The parts, by the groups and their settings as they are now; ValueError for wrong ones.

        They are looked at before each step, because a schedule may change them at any time.
        """
        seen = overrides(self.inner.param_groups)
        if len(seen) != len(self.seen) or not all(map(is_, seen, self.seen)):
            self._regroup()
            self.seen = seen
        return self.parts

    def _regroup(self) -> None:
        """Put the groups together by their settings; each keeps the clock that it had.

        Groups of the same settings whose clocks differ, because their periods did, stay apart.
        """
        wanted = self._wanted()
        found: list[tuple[SyncState, Part]] = []
        for group, rule in wanted:
            clock = self._clock(group, rule)
            for other, part in found:
                if self._alike(part, group, rule) and all(map(_same, clock, other)):
                    part.groups.append(group)
                    break
            else:
                found.append((clock, Part(rule, [group], _own_tensors(clock))))
        before = {tuple(map(id, part.groups)): part for part in self.parts}
        self.parts = [part for _, part in found]
        for part in self.parts:
            part.members = self.members_of(part)
            same = before.get(tuple(map(id, part.groups)))
            if same and part.rule.leafwise:  # else it may have slots that are to be made first
                part.prepared = same.prepared

    def _wanted(self) -> list[tuple[Group, SyncRule]]:
        """The groups that are to be put together, each with its rule, or ValueError."""
        return [(group, rule_of(group, self.rule)) for group in self.inner.param_groups]

    def _clock(self, group: Group, rule: SyncRule) -> SyncState:
        """The counters of a group: those that it had, or new ones."""
        leaves = set(group["params"])
        for part in self.parts:
            same = any(group is own for own in part.groups)
            if same or not leaves.isdisjoint(leaves_of(part.groups)):
                if part.rule.sync_period == rule.sync_period:
                    return part.state
                phase = in_phase(self.elapsed, part.state.count, rule.sync_period)
                return part.state._replace(phase=phase)
        return self._new_clock(group, rule)

    def _new_clock(self, group: Group, rule: SyncRule) -> SyncState:
        """The counters of a group that is new: those of the part that it joins, or a new part's."""
        for part in self.parts:
            if self._alike(part, group, rule):
                return part.state
        count = self.elapsed * before_first(self.elapsed)
        phase = in_phase(self.elapsed, count, rule.sync_period)
        return SyncState((), count, self.elapsed * 0, (), (), phase)

    def _alike(self, part: Part, group: Group, rule: SyncRule) -> bool:
        """Whether `group`, whose rule this is, has the settings of a part."""
        same = part.rule.outer is rule.outer or part.rule.outer == rule.outer
        return part.rule.sync_period == rule.sync_period and same

    def members_of(self, part: Part) -> list[Tensor]:
        """The parameters of a part of which something is kept, each once."""
        return list(dict.fromkeys(leaf for leaf in leaves_of(part.groups) if leaf in self.kept))

    # --- what a cycle begins with ---

    @torch.no_grad()
    def begin(self, parts: Iterable[Part]) -> None:
        """Before an inner step: what the cycles of these parts that begin now start from."""
        for part in parts:
            if not (part.prepared and part.prepared.starts(part.groups)):
                self.hold(part)
            live = self.participating(part)
            values = [value for value, _ in live.values()]
            fast, state = self._given(part, live, part.on_host())
            kernel, part.witness = self._kernel(part, part.witness), None
            state = part.rule.begin(fast, values, state, kernel=kernel)
            for leaf in part.members if part.rule.inner_state == "interpolate" else ():
                self.kept[leaf].inner_slow.clear()  # of what is gone from the inner state too
            self.store(part, state, live)
            if self.buffers is not None and part is self.parts[0]:
                self.buffers.begin(part.rule, part.on_host())
        self._forget_gone()

    @torch.no_grad()
    def hold(self, part: Part, groups: Iterable[Group] = ()) -> None:
        """Keep something of each parameter that is trained now, and of no other.

        Of all groups of the part, or of these. What is kept goes on from the last cycle, where the
        shape is still the same.
        """
        slots = len(part.rule.outer.init(()))
        leaves = dict.fromkeys(leaves_of(groups or part.groups))
        self._join(leaf for leaf in leaves if leaf.requires_grad and not self._fits(leaf))
        held: dict[Tensor, Kept] = {}
        for leaf in leaves:
            kept = self.kept.get(leaf)
            if not leaf.requires_grad:
                continue
            if kept is None or kept.slow.shape != leaf.shape:
                kept = self.home.new(part.rule, leaf)
            elif len(kept.slots) != slots:  # its group had an alpha of its own until now
                kept.slots = self.home.new(part.rule, leaf).slots
            held[leaf] = self.home.settled(kept, leaf)
        # Only now: what is kept of a parameter is never out of reach.
        for frozen in leaves.keys() - held.keys():
            self.kept.pop(frozen, None)
        self.kept.update(held)
        part.members, part.prepared = self.members_of(part), None
        if not (part.rule.numberwise and self.kernel == "foreach"):
            return
        # A group that is added finds members that were frozen since the cycle began, or others that
        # thawed: the next begin is to look at them, and not to go by what is prepared here.
        same = all(leaf.requires_grad == (leaf in self.kept) for leaf in leaves_of(part.groups))
        if same and self.workers is None:
            part.prepared = Prepared.of(part.groups, part.members, self.kept)

    def _join(self, leaves: Iterable[Tensor]) -> None:
        """Have the same weights on all workers of what joins: each may have trained its own."""
        if self.workers is not None and (joining := set(leaves)):
            every = enumerate(dict.fromkeys(leaves_of(self.inner.param_groups)))
            self.workers.join({number: leaf for number, leaf in every if leaf in joining})

    def _fits(self, leaf: Tensor) -> bool:
        """Whether something is kept of `leaf` in the shape that it has now."""
        kept = self.kept.get(leaf)
        return kept is not None and kept.slow.shape == leaf.shape

    def _forget_gone(self) -> None:
        """Drop what is kept of parameters that no group has any longer."""
        if len(self.kept) <= sum(len(part.members) for part in self.parts):
            return
        for gone in self.kept.keys() - set(leaves_of(self.inner.param_groups)):
            del self.kept[gone]
        for part in self.parts:
            if any(leaf not in self.kept for leaf in part.members):
                part.members, part.prepared = self.members_of(part), None

    def watch(self, parts: Iterable[Part]) -> None:
        """Show the outer rule the gradients of the first step of a cycle, if it asks for them."""
        for part in parts:
            if part.rule.needs_gradient and part.members:
                state = self.filled(part, {})
                self.store(part, part.rule.watch(state, gradients(part.groups, part.members)), {})

    def catch_up(self, parts: Iterable[Part]) -> bool:
        """Whether weights had to be moved, before cycles begin, to be where other workers are."""
        return False

    # --- the sync ---

    def meet(self, parts: list[Part], **facts: Any) -> Average | None:
        """Meet the other workers, if there are any, before a sync; how it averages over them."""
        if self.workers is None or not parts:
            return None
        share = self.share(parts, self.work, **facts)
        # A graph is compiled for lists of one shape, and those of buckets are many.
        average: Average = self.workers.average(share, in_buckets=self.kernel != "compiled")
        return average

    @torch.no_grad()
    def share(self, parts: list[Part], work: float, **facts: Any) -> float:
        """Meet the other workers before a mean; this one's share of it."""
        share = self.workers.share(parts, self.kept, work, **facts)
        resized = [(p, leaf) for p in parts for leaf in p.members if not self._fits(leaf)]
        self._join(leaf for _, leaf in resized)
        self.kept |= {leaf: self._fitting(part, leaf) for part, leaf in resized}
        return float(share)

    @torch.no_grad()
    def sync(self, part: Part, average: Average | Leaves | None = None) -> None:
        """Sync a part, weights and inner state, in place; its counters count it at the end."""
        rule, before = part.rule, part.on_host()
        if self.buffers is not None and part is self.parts[0]:
            self.buffers.sync(rule, before, average)
        if not (part.prepared and part.prepared.holds(part.groups)):
            part.members, part.prepared = self.members_of(part), None
            for leaf in part.members:
                self.kept[leaf] = self.home.settled(self._fitting(part, leaf), leaf)
        if not part.members:
            part.keep_counters(before._replace(count=0, syncs=before.syncs + 1, phase=0))
            return
        live = self.participating(part)
        values = [value for value, _ in live.values()]
        given, full = self._given(part, live, before)
        options = evidence(rule, self.inner, part.groups, part.members)
        if rule.inner_state == "reset":
            options["initial"] = [*self.starts(part, live).values()]
        in_buckets = getattr(average, "sync", None)  # not of a mean that is there already
        sync = in_buckets or partial(SyncRule.sync, average=average)
        fast, inner, state = sync(rule, given, values, full, kernel=self._kernel(part), **options)
        assign(given, fast)
        assign(values, inner)
        self.store(part, state, live)
        part.keep_counters(state)
        if rule.fast_is_slow(state):
            part.witness = Witness.of(self._equal(part, live))
        if rule.inner_state == "reset" and rule.puts_back(before):
            for entries, key, value in [*self.plain_entries(part)]:
                entries[key] = value

    def _kernel(self, part: Part, witness: Witness | None = None) -> Kernel:
        kernel = KERNELS[self.kernel]
        kernel = kernel if part.prepared is None else part.prepared.over(kernel)
        return kernel if witness is None else witness.over(kernel)

    def _equal(self, part: Part, live: Live) -> Iterator[tuple[Tensor, ...]]:
        """What a sync that put the fast weights back has left equal, but for small leaves."""
        if part.prepared is None:
            yield from ((self.kept[leaf].slow, leaf) for leaf in part.members)
        else:
            yield from (row[:2] for row in part.prepared.alone)
        if part.rule.inner_state == "interpolate":
            yield from ((self.kept[leaf].inner_slow[key], live[leaf, key][0]) for leaf, key in live)

    # --- the arrays of a part's state ---

    def _given(self, part: Part, live: Live, counters: SyncState) -> tuple[list[Tensor], SyncState]:
        """The fast weights and the state that the core is given at a begin and at a sync."""
        if part.prepared is None:
            return part.members, self.filled(part, live, counters)
        own, inner_slow = part.prepared, self._inner_slow(part, live)
        return own.fast, counters._replace(slow=own.slow, outer=own.slots, inner_slow=inner_slow)

    def filled(
        self,
        part: Part,
        live: Live,
        counters: SyncState | None = None,
        own: list[Kept] | None = None,
    ) -> SyncState:
        """The core's state of a part, with its arrays; changes nothing.

        Of inner state that was made or resized since the cycle began, the slow copy is what it was
        before its first step. A parameter that was resized is as new, with its inner state.
        """
        own = [self._fitting(part, leaf) for leaf in part.members] if own is None else own
        slow = [kept.slow for kept in own]
        outer = [list(slot) for slot in zip(*(kept.slots for kept in own), strict=True)]
        outer = outer or [[] for _ in part.rule.outer.init(())]  # of a part that is frozen whole
        if not part.rule.leafwise or self.workers is not None:  # it may mix them, on one device
            slow = [s.to(leaf.device) for s, leaf in zip(slow, part.members, strict=True)]
            outer = [
                [s.to(leaf.device) for s, leaf in zip(slot, part.members, strict=True)]
                for slot in outer
            ]
        inner_slow = self._inner_slow(part, live)
        state = part.state if counters is None else counters
        return state._replace(slow=slow, outer=outer, inner_slow=inner_slow)

    def _inner_slow(self, part: Part, live: Live) -> Leaves:
        """The slow copy of the inner state, where the policy has one."""
        if part.rule.inner_state != "interpolate":
            return ()
        owner, found = owners(part.groups), []
        for (leaf, key), (value, kind) in live.items():
            kept = self._fitting(part, leaf).inner_slow.get(key)
            if kept is None or kept.shape != value.shape:
                kept = torch.empty_like(value).copy_(initial(value, kind, owner[leaf]))
            found.append(kept.to(value.device, value.dtype))
        return found

    def store(self, part: Part, state: SyncState, live: Live) -> None:
        """Keep the arrays of `state`, in our own tensors where there are some."""
        if part.prepared is None:
            own = [self.kept[leaf] for leaf in part.members]
            slots = [[kept.slots[number] for kept in own] for number in range(len(state.outer))]
            ours = [[kept.slow for kept in own], *slots]
        else:
            ours = [part.prepared.slow, *part.prepared.slots]
        for old, new in zip(ours, (state.slow, *state.outer), strict=True):
            assign(old, new)
        if part.rule.inner_state == "interpolate":
            for (leaf, key), value in zip(live, state.inner_slow, strict=True):
                copies = self.kept[leaf].inner_slow
                if key in copies and copies[key].shape == value.shape:
                    assign([copies[key]], [value])
                else:
                    copies[key] = value

    def to_save(self, part: Part) -> tuple[SyncState, Live]:
        """The state of a part as a checkpoint has it; nothing is made that lasts."""
        live, counters = self.participating(part), part.on_host()
        if not part.rule.fast_is_slow(counters):
            return self.filled(part, live, counters), live
        own = [self._fitting(part, leaf) for leaf in part.members]
        state = self.filled(part, live, counters, own)
        state = state._replace(slow=[slow.clone() for slow in state.slow], inner_slow=())
        if before_first(state.count):
            state = state._replace(count=0)  # what would be taken now, as at any begin
        values = [value for value, _ in live.values()]
        return part.rule.begin(self.fast(part), values, state, kernel=KERNELS[self.kernel]), live

    def fast(self, part: Part) -> list[Tensor]:
        """The fast weights; while the slow ones are evaluated they are beside them."""
        pairs = ((leaf, self.kept[leaf].fast) for leaf in part.members)
        return [leaf if fast is None else fast for leaf, fast in pairs]

    def _fitting(self, part: Part, leaf: Tensor) -> Kept:
        """What is kept of `leaf`; as of one that is new, if its shape is another now."""
        kept = self.kept.get(leaf)  # once: with many small leaves, look-ups are most of a step
        if kept is not None and kept.slow.shape == leaf.shape:
            return kept
        new = self.home.new(part.rule, leaf)
        entries = self.participating(part).items()
        new.inner_slow |= {key: value.clone() for (own, key), (value, _) in entries if own is leaf}
        return new

    def loaded(self, streaming: dict[str, Any], clocks: list[SyncState]) -> None:
        """For a subclass that keeps more than this: a checkpoint has been loaded."""

    def participating(self, part: Part) -> Live:
        """Live tensors of the inner state that the policy acts on; ValueError for unknown ones."""
        policy = part.rule.inner_state
        return inner_leaves(self.inner, part.groups, self.kept, policy, self.kinds)

    def plain_entries(self, part: Part) -> Iterator[tuple[dict[str, Any], str, Any]]:
        """What a reset sets beside the tensors: (where, key, value)."""
        return plain_entries(self.inner, part.groups, self.kept, self.kinds)

    def starts(self, part: Part, live: Live) -> dict[InnerName, Tensor]:
        """What each of these was before its first step."""
        owner = owners(part.groups)
        return {name: initial(value, kind, owner[name[0]]) for name, (value, kind) in live.items()}

    @torch.no_grad()
    def count_on_device(self) -> None:
        """Make the counters tensors, beside the first parameter."""
        device = next(leaves_of(self.inner.param_groups)).device
        number = partial(torch.tensor, dtype=torch.int64, device=device)
        self.elapsed = number(int(self.elapsed))
        for part in self.parts:
            count, syncs, phase = part.state.count, part.state.syncs, part.state.phase
            part.state = SyncState((), number(count), number(syncs), (), (), number(phase))


def _same(number: Any, other: Any) -> bool:
    """Whether two counters agree; tensors only if they are one, so that nothing is waited for."""
    return number is other or (not isinstance(number, Tensor) and bool(number == other))


def _own_tensors(clock: SyncState) -> SyncState:
    """Counters that no other part has: those that are tensors are changed in place."""
    count, syncs, phase = (
        own.clone() if isinstance(own, Tensor) else own
        for own in (clock.count, clock.syncs, clock.phase)
    )
    return SyncState((), count, syncs, (), (), phase)
