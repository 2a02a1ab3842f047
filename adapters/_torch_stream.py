"""Fragments of a cycle: each is taken, is on its way, and is applied, at steps of its own.

A fragment is given to the cycle as parameter groups that have its parameters alone. Steps and
gradients are the optimizer's (_torch_streaming.py); how a mean travels is _torch_flight.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lookahead_core.workers import pseudo_gradients

from ._torch_codecs import Codec
from ._torch_cycle import Cycle
from ._torch_flight import CodedFlight, Flight, PlainFlight
from ._torch_groups import PERIOD, Group, by_rule, leaves_of, members_of, period
from ._torch_memory import Memory
from ._torch_workers import Workers

__all__ = ["Stream"]


@dataclass(eq=False)
class Stream:
    """The fragments of a `StreamingOptimizer`.

    Attributes
    ----------
    cycle : Cycle
        Of all parameters.
    workers : Workers
        Those that sync together.
    fragment : dict
        The number of the fragment of each parameter.
    phases : list of int
        The step of the cycle at which each fragment is taken.
    delay : int
        Steps from there to its sync.
    codec, codec_name
        How means are sent.
    resting : set of int
        Fragments whose next cycle has not begun.
    syncs : list of int
        Syncs of each so far.
    work : list of float
        What this worker has done since each was taken, but for `memory.work`.
    flights : dict
        Means on their way with their parameters, in the order in which they were taken.
    """

    cycle: Cycle
    workers: Workers
    fragment: dict[Tensor, int]
    phases: list[int]
    delay: int
    codec: Codec | None
    codec_name: str | None
    resting: set[int] = field(default_factory=set)
    syncs: list[int] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    flights: dict[int, tuple[list[Tensor], Flight]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Where a plain optimizer is now, or at the start: nothing is on its way."""
        memory = self.cycle.memory
        number = len(self.phases)
        self.syncs, self.work = [int(memory.syncs)] * number, [0.0] * number
        self.resting = set() if int(memory.count) else set(range(number))
        self.flights = {}

    def taken_at(self, count: int) -> int | None:
        """The fragment that is taken after so many steps, if there is one."""
        step = (count - 1) % self.cycle.rule.sync_period + 1
        return self.phases.index(step) if step in self.phases else None

    def age(self, fragment: int, count: int) -> int:
        """Steps since it was taken."""
        return (count - self.phases[fragment]) % self.cycle.rule.sync_period

    @property
    def middle(self) -> int:
        """The age at which the second half of a flight is started."""
        return (self.delay + 1) // 2

    def anchor(self) -> None:
        """Start the cycles of the fragments that rest: their slow weights are taken (C26)."""
        for fragment in sorted(self.resting):
            self._own(fragment).anchor(self.groups([fragment]))

    def meet(self, fragment: int) -> float:
        """Meet the other workers before a fragment is taken; this one's share of its mean."""
        memory, rule = self.cycle.memory, self.cycle.rule
        groups = self.groups([fragment])
        for group in groups:
            if period(group, rule) != rule.sync_period:
                raise ValueError(
                    f"{PERIOD} in a group must be the rule's with fragments "
                    f"({rule.sync_period}), got {group[PERIOD]!r}"
                )
        facts = {
            "the fragment": fragment,
            "the counter": int(memory.count) % rule.sync_period,
            "the number of syncs": self.syncs[fragment],
        }
        work = self.work[fragment] + memory.work
        return self.workers.share(by_rule(groups, rule), memory.slow, work, **facts)

    @torch.no_grad()
    def take(self, fragment: int, share: float) -> None:
        """Start the mean of what this worker has done to a fragment."""
        memory = self.cycle.memory
        leaves = members_of(self.groups([fragment]), memory.slow)
        slow = [memory.slow[leaf].to(leaf.device) for leaf in leaves]
        own = pseudo_gradients(slow, leaves)
        self.workers.weigh(own, share)
        self.flights[fragment] = leaves, self._started(leaves, own)
        self.work = [done + memory.work for done in self.work]
        self.work[fragment], memory.work = 0.0, 0.0

    def bring_on(self, count: int) -> None:
        """Start second halves that are due, and wait for means that are, before weights move."""
        for fragment, (_, flight) in self.flights.items():
            if self.age(fragment, count) == self.middle:
                flight.bring_on()
            if self.age(fragment, count) == self.delay:
                flight.arrived()

    def apply_due(self, count: int) -> None:
        for fragment in [*self.flights]:
            if self.age(fragment, count) == self.delay:
                self.apply(fragment)

    def apply(self, fragment: int) -> None:
        """Sync a fragment by its mean, waiting for it."""
        leaves, flight = self.flights[fragment]
        means = dict(zip(leaves, flight.arrived(), strict=True))
        del self.flights[fragment]
        groups, own = self.groups([fragment]), self._own(fragment)
        parts = by_rule(groups, self.cycle.rule)
        in_order = iter([means[leaf] for _, some in parts for leaf in members_of(some, means)])
        own.sync(parts, lambda differences: [*islice(in_order, len(differences))])
        self.syncs[fragment] = own.memory.syncs
        self.cycle.memory.syncs = max(self.syncs)
        self.resting.add(fragment)

    def apart(self) -> list[Group]:
        """Groups of the fragments whose parameters are not their slow weights."""
        whole = self.cycle.rule.fast_carries_slow
        return self.groups(
            fragment
            for fragment, syncs in enumerate(self.syncs)
            if fragment not in self.resting or (syncs and not whole)
        )

    def groups(self, fragments: Iterable[int]) -> list[Group]:
        """The parameter groups, with the parameters of these fragments alone."""
        asked = set(fragments)
        found = []
        for group in self.cycle.inner.param_groups:
            own = [leaf for leaf in group["params"] if self.fragment.get(leaf) in asked]
            if own:
                found.append({**group, "params": own})
        return found

    def _own(self, fragment: int) -> Cycle:
        """The cycle, with the fragment's own number of syncs; tensors are shared."""
        memory = replace(self.cycle.memory, syncs=self.syncs[fragment], synced=[])
        return replace(self.cycle, memory=memory)

    # --- what is on its way ---

    def _started(self, leaves: list[Tensor], own: Sequence[Tensor]) -> Flight:
        link = self.workers.link
        if self.codec is None or not leaves:
            return PlainFlight.started(link, own)
        return CodedFlight.started(link, self.codec, own, self._residual(leaves, own))

    def _residual(self, leaves: list[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """What codecs have left over of each of these, from the first time on."""
        kept = self.cycle.memory.beside.setdefault("residual", {})
        for leaf, own in zip(leaves, like, strict=True):
            if leaf not in kept:
                kept[leaf] = torch.zeros_like(own, dtype=_single(own))
        return [kept[leaf] for leaf in leaves]

    def settings(self) -> dict[str, Any]:
        """What must be alike: on all workers, and where a checkpoint is loaded."""
        fragments = [self.fragment[leaf] for leaf in leaves_of(self.cycle.inner.param_groups)]
        return {"fragments": fragments, "delay": self.delay, "codec": self.codec_name}

    def save(self) -> None:
        """Write all of this into the memory, waiting for messages under way and sending none."""
        memory, link = self.cycle.memory, self.workers.link
        memory.beside["arriving"] = {
            leaf: mean
            for leaves, flight in self.flights.values()
            for leaf, mean in zip(leaves, flight.kept(), strict=True)
        }
        memory.streaming = {
            **self.settings(),
            "resting": sorted(self.resting),
            "syncs": [*self.syncs],
            "work": [*self.work],
            "under_way": [*self.flights],
            "member": [link.rank, link.size],
        }

    def check(self, memory: Memory) -> None:
        """ValueError unless a loaded memory is of fragments like these, or of none at all."""
        saved = memory.streaming
        if not saved:
            return
        for name, ours in self.settings().items():
            if saved.get(name) != ours:
                raise ValueError(
                    f"the checkpoint was made with {name}={saved.get(name)!r}, this optimizer has "
                    f"{name}={ours!r}; construct it with the checkpoint's"
                )
        for name in ("resting", "syncs", "work", "under_way", "member"):
            if not isinstance(saved.get(name), list):
                raise ValueError(
                    f"state_dict['param_groups'] must have 'lookahead_streaming_{name}', a list, "
                    f"got {saved.get(name)!r}"
                )
        here = [self.workers.link.rank, self.workers.link.size]
        if self.codec is not None and saved["under_way"] and saved["member"] != here:
            raise ValueError(
                "the checkpoint has an encoded mean on its way, of which each worker holds its "
                f"own part: it must be loaded by worker {saved['member'][0]} of "
                f"{saved['member'][1]}, got worker {here[0]} of {here[1]}"
            )

    def restore(self) -> None:
        """Go on from the memory, which has been loaded."""
        self.begin()
        memory = self.cycle.memory
        if not (saved := memory.streaming):
            return
        self.resting, self.syncs = set(saved["resting"]), [*saved["syncs"]]
        self.work = [*saved["work"]]
        arriving = memory.beside.pop("arriving", {})
        for fragment in saved["under_way"]:
            leaves = members_of(self.groups([fragment]), arriving)
            means = [arriving[leaf] for leaf in leaves]
            halfway = self.age(fragment, int(memory.count)) >= self.middle
            self.flights[fragment] = leaves, self._resumed(leaves, means, halfway)

    def _resumed(self, leaves: list[Tensor], means: list[Tensor], halfway: bool) -> Flight:
        link = self.workers.link
        if self.codec is None or not leaves:
            return PlainFlight(link, means, [])
        residual = self._residual(leaves, means)
        return CodedFlight.resumed(link, self.codec, means, residual, halfway)


def _single(leaf: Tensor) -> torch.dtype:
    return torch.complex64 if leaf.is_complex() else torch.float32
