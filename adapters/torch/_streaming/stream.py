"""Fragments: parts of the model that are taken, are on their way, and are synced, each in its turn.

A fragment is a part with a phase of its own (_parts.py). Some steps before its sync the mean of
what the workers did to it is started; how that travels is flight.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, cast

import torch
from torch import Tensor

from lookahead_core import SyncRule, SyncState
from lookahead_core.checkpoint import check_settings
from lookahead_core.schedule import begins, in_phase, phases, remaining
from lookahead_core.workers import pseudo_gradients

from .._groups import PERIOD, Group, leaves_of, rule_of
from .._parts import Part, Parts
from .codecs import Codec
from .flight import CodedFlight, Flight, PlainFlight

__all__ = ["Stream"]

# In the place of a fragment's number.
NONE = -1

Taken = tuple[list[Tensor], Flight]  # parameters, and their mean on its way


@dataclass(eq=False)
class Stream(Parts):
    """The parts of a `StreamingOptimizer`, by fragments.

    Attributes
    ----------
    fragment : dict
        The number of the fragment of each parameter.
    delay : int
        Steps from its taking to its sync.
    codec, codec_name
        How means are sent.
    undone : list of float
        What this worker has done since each fragment was taken, but for `work`.
    flights : dict
        Means on their way with their parameters, in the order in which they were taken.
    """

    fragment: dict[Tensor, int] = field(default_factory=dict)
    delay: int = 0
    codec: Codec | None = None
    codec_name: str | None = None
    undone: list[float] = field(default_factory=list)
    flights: dict[int, Taken] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Parts, fragment: dict[Tensor, int], **settings: Any) -> "Stream":
        """The same, by fragments: at the start of the run."""
        own = {name.name: getattr(parts, name.name) for name in fields(parts)}
        stream = cls(**{**own, "parts": [], "seen": []}, fragment=fragment, **settings)
        stream.undone = [0.0] * len(stream.phases)
        stream.current()
        return stream

    @property
    def period(self) -> int:
        """Steps from one sync of a fragment to its next."""
        return cast(int, self.rule.sync_period)  # a schedule is refused

    @property
    def phases(self) -> list[int]:
        """By how many steps the first cycle of each fragment is shorter, up to its taking."""
        return phases(max(self.fragment.values()) + 1, self.period)

    # --- which parts there are ---

    def _wanted(self) -> list[tuple[Group, SyncRule]]:
        """Each group, cut into its fragments."""
        found = []
        for group in self.inner.param_groups:
            rule = rule_of(group, self.rule)
            if rule.sync_period != self.rule.sync_period:
                raise ValueError(
                    f"{PERIOD} in a group must be the rule's with fragments "
                    f"({self.rule.sync_period}), got {group[PERIOD]!r}"
                )
            for number in range(len(self.phases)):
                own = [leaf for leaf in group["params"] if self.fragment.get(leaf) == number]
                if own:
                    found.append(({**group, "params": own}, rule))
        return found

    def _alike(self, part: Part, group: Group, rule: SyncRule) -> bool:
        same = self._number(part) == self.fragment[group["params"][0]]
        return same and super()._alike(part, group, rule)

    def _new_clock(self, group: Group, rule: SyncRule) -> SyncState:
        return self._clock_at(self.fragment[group["params"][0]])

    def _clock_at(
        self, number: int, rests: bool = True, under_way: bool = False, syncs: int = 0
    ) -> SyncState:
        """The counters of a fragment after `elapsed` steps.

        Parameters
        ----------
        number : int
            Which fragment.
        rests : bool
            Whether its next cycle has not begun.
        under_way : bool
            Whether it was taken and not yet synced.
        syncs : int
            Its syncs so far.
        """
        period = self.period
        since_taken = in_phase(int(self.elapsed) + self.phases[number], 0, period)
        rest = (0 if under_way else period) - since_taken + self.delay
        count = 0 if rests else 1  # of the steps in the cycle it matters only whether there are any
        return SyncState((), count, syncs, (), (), period - count - rest)

    def of_fragment(self, number: int) -> list[Part]:
        """Its parts: one for each setting of alpha in it."""
        return [part for part in self.parts if self._number(part) == number]

    def _number(self, part: Part) -> int:
        return self.fragment[next(leaves_of(part.groups))]

    def numbers(self, rest: int) -> list[int]:
        """The fragments that are synced in so many steps, the next one included."""
        found = [
            self._number(part)
            for part in self.parts
            if remaining(part.state.count, self.period, part.state.phase) == rest
        ]
        return list(dict.fromkeys(found))

    # --- taken, on its way, applied ---

    def meet_fragment(self, number: int, **facts: Any) -> float:
        """Meet the other workers before a fragment is taken; this one's share of its mean."""
        work, own = self.undone[number] + self.work, self.of_fragment(number)
        return self.share(own, work, **facts, **{"the fragment": number})

    @torch.no_grad()
    def take(self, number: int, share: float) -> Taken:
        """Start the mean of what this worker has done to a fragment.

        Until it is given to `keep` nothing of this optimizer is changed.
        """
        leaves = [leaf for part in self.of_fragment(number) for leaf in part.members]
        slow = [self.kept[leaf].slow.to(leaf.device) for leaf in leaves]
        own = pseudo_gradients(slow, leaves)
        self.workers.weigh(own, share)
        link = self.workers.link
        if self.codec is None or not leaves:
            flight: Flight = PlainFlight.started(link, own)
        else:
            flight = CodedFlight.started(link, self.codec, own, self._residual(leaves, own))
        return leaves, flight

    def bring_on(self) -> None:
        """Before a step: start second halves that are due, and wait for means that are."""
        halfway = self.numbers(1 + self.delay - (self.delay + 1) // 2)
        due = self.numbers(1)
        for number, (_, flight) in self.flights.items():
            if number in halfway:
                flight.bring_on()
            if number in due:
                flight.arrived()
            flight.settle()

    def keep(self, taken: dict[int, Taken], arrived: dict[int, Taken]) -> None:
        """Sync fragments whose means have arrived, and go on with those that were taken."""
        for number, (leaves, flight) in arrived.items():
            means = dict(zip(leaves, flight.arrived(), strict=True))
            for part in self.of_fragment(number):
                self.sync(part, [means[leaf] for leaf in part.members])
        for number, (_, flight) in taken.items():
            flight.settle()
            self.undone = [done + self.work for done in self.undone]
            self.undone[number], self.work = 0.0, 0.0
        under_way = {**self.flights, **taken}
        self.flights = {number: own for number, own in under_way.items() if number not in arrived}

    def start_again(self, taken: dict[int, Taken]) -> None:
        """Sync all fragments; cycles are as at the start of a run, the numbers of syncs go on."""
        for _, flight in self.flights.values():
            flight.settle()
        self.keep(taken, {**self.flights, **taken})
        self.elapsed = 0
        for part in self.parts:
            part.state = self._clock_at(self._number(part), syncs=part.state.syncs)

    def _residual(self, leaves: list[Tensor], like: Iterable[Tensor]) -> list[Tensor]:
        """What codecs have left over of each of these, from the first time on."""
        found = []
        for leaf, own in zip(leaves, like, strict=True):
            kept = self.kept[leaf]
            if kept.residual is None:
                kept.residual = torch.zeros_like(own, dtype=_single(own))
            found.append(kept.residual)
        return found

    # --- checkpoints ---

    def settings(self) -> dict[str, Any]:
        """What must be alike: on all workers, and where a checkpoint is loaded."""
        fragments = [self.fragment[leaf] for leaf in leaves_of(self.inner.param_groups)]
        return {"fragments": fragments, "delay": self.delay, "codec": self.codec_name}

    def save(self) -> None:
        """Have all of this where it is saved, waiting for messages under way and sending none."""
        link, numbers = self.workers.link, range(len(self.phases))
        for leaves, flight in self.flights.values():
            flight.settle()
            for leaf, mean in zip(leaves, flight.kept(), strict=True):
                self.kept[leaf].arriving = mean
        # What was never stepped is saved as new, with nothing of ours.
        if self.unstepped or int(self.elapsed) or any(part.state.syncs for part in self.parts):
            self._save_alike()
        firsts = [self.of_fragment(number)[0].state for number in numbers]
        self.streaming = {
            **self.settings(),
            "resting": self._padded(number for number in numbers if begins(firsts[number].count)),
            "syncs": [state.syncs for state in firsts],
            "work": [*self.undone],
            "under_way": self._padded(self.flights),
            "halfway": self._padded(n for n, (_, flight) in self.flights.items() if flight.halfway),
            "member": [link.rank, link.size],
        }

    def _padded(self, numbers: Iterable[int]) -> list[int]:
        """As many numbers as there are fragments: torch loads each into one that is there."""
        found = [*numbers]
        return found + [NONE] * (len(self.phases) - len(found))

    def _save_alike(self) -> None:
        """Zeros where nothing is: torch.distributed.checkpoint loads what the loading one has."""
        for leaf, kept in self.kept.items():
            wide = torch.promote_types(kept.slow.dtype, torch.float32)
            own = torch.zeros_like(leaf, dtype=wide, requires_grad=False)
            if self.delay and kept.arriving is None:
                kept.arriving = own
            if self.codec is not None:
                self._residual([leaf], [own])

    def saved(self) -> None:
        """Means on their way are held by their flights, and else only while they are saved."""
        for kept in self.kept.values():
            kept.arriving = None

    def check(self, saved: dict[str, Any]) -> None:
        """ValueError unless what was loaded is of fragments like these, or of none at all."""
        if not saved:
            return
        check_settings(saved, self.settings())
        names = ["resting", "syncs", "work", "under_way", "member"]
        # Checkpoints before 0.2.0 do not have it.
        names += ["halfway"] if self.codec is not None and saved.get("under_way") else []
        for name in names:
            if not isinstance(saved.get(name), list):
                raise ValueError(
                    f"state_dict['param_groups'] must have 'lookahead_streaming_{name}', a list, "
                    f"got {saved.get(name)!r}"
                )
        here = [self.workers.link.rank, self.workers.link.size]
        under_way = _fragments(saved, "under_way")
        if self.codec is not None and under_way and saved["member"] != here:
            raise ValueError(
                "the checkpoint has an encoded mean on its way, of which each worker holds its "
                f"own part: it must be loaded by worker {saved['member'][0]} of "
                f"{saved['member'][1]}, got worker {here[0]} of {here[1]}"
            )

    def loaded(self, streaming: dict[str, Any], clocks: list[SyncState]) -> None:
        """Go on from a checkpoint, whose arrays have been loaded; or from that of no fragments."""
        numbers = range(len(self.phases))
        rests = [*numbers] if begins(clocks[0].count) else []
        saved = streaming or {
            "resting": rests,
            "syncs": [clocks[0].syncs] * len(numbers),
            "work": [0.0] * len(numbers),
            "under_way": [],
        }
        self.undone, self.flights = [*saved["work"]], {}
        for part in self.parts:
            number = self._number(part)
            known = number in saved["resting"], number in saved["under_way"], saved["syncs"][number]
            part.state = self._clock_at(number, *known)
        for number in _fragments(saved, "under_way"):
            leaves = [leaf for part in self.of_fragment(number) for leaf in part.members]
            leaves = [leaf for leaf in leaves if self.kept[leaf].arriving is not None]
            means = [self.kept[leaf].arriving for leaf in leaves]
            halfway = number in saved.get("halfway", [])
            self.flights[number] = leaves, self._resumed(leaves, means, halfway)
        self.saved()

    def _resumed(self, leaves: list[Tensor], means: list[Any], halfway: bool) -> Flight:
        link = self.workers.link
        if self.codec is None or not leaves:
            return PlainFlight(link, means, [])
        return CodedFlight.resumed(link, self.codec, means, self._residual(leaves, means), halfway)


def _fragments(saved: dict[str, Any], name: str) -> list[int]:
    """The numbers of fragments that are saved under this name."""
    return [number for number in saved.get(name) or [] if number != NONE]


def _single(leaf: Tensor) -> torch.dtype:
    return torch.complex64 if leaf.is_complex() else torch.float32
