"""Many workers in the torch adapter: they agree, weigh their work, and average what they did.

What the mean is of, and what an outer rule sees of it, is lookahead_core's; how it travels is
collectives.py.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lookahead_core import SyncRule
from lookahead_core.checkpoint import settings
from lookahead_core.typing import Leaves
from lookahead_core.validation import boolean
from lookahead_core.workers import check_alike

from .._groups import leaves_of
from .buckets import Mean
from .collectives import Link, fingerprint, local
from .quorum import Quorum
from .shards import groups_of_a_worker, groups_within, which_part

if TYPE_CHECKING:
    from .._leaves import Kept
    from .._parts import Part, Parts
    from .quorum_parts import Visitors

__all__ = ["Workers", "facts_of", "workers_of"]

# What workers may be about to do when they meet.
SYNCS = ("a sync", "sync()")
KINDS = (
    *("making an optimizer", "taking in parameters", *SYNCS, "sync() of fragments", "leaving"),
    "a step that a GradScaler takes",
)


class Word(NamedTuple):
    """What one worker tells the others whenever they meet: four integers, of whatever is done.

    So what does not belong together is a difference of words, and not messages that do not fit.

    Attributes
    ----------
    kind : int
        What it is about to do: its place in `KINDS`.
    digest : int
        Of all that must be the same.
    prints : int
        A fingerprint of weights, or 0.
    work : float
        What it has done.
    """

    kind: int
    digest: int
    prints: int
    work: float

    @classmethod
    def of(cls, row: list[int]) -> "Word":
        kind, digest, prints, work = row
        return cls(kind, digest, prints, _as_float(work))

    def row(self) -> list[int]:
        return [*self[:3], _as_int(self.work)]


@dataclass(eq=False)
class Workers:
    """Those that sync together: each has the same slow weights and fast weights of its own.

    Attributes
    ----------
    link : Link
        To the others.
    check_replicas : bool
        Whether each sync compares the slow weights of all, bit for bit.
    within : list of ProcessGroup or None
        Groups of the processes that are this worker; None to go by the parameters.
    skip_together : bool
        Whether all skip a step that a GradScaler of one skips.
    number : int
        Which of the optimizers of these workers this is, by the order in which they were made.
    leaving : bool
        Whether this one is done, and only follows the others.
    met : int
        Meetings before a mean so far.
    forced, all_left : bool
        Of the last of them: whether it was for `sync()`, and whether nobody has gone on.
    """

    link: Link
    check_replicas: bool = False
    within: "list[dist.ProcessGroup] | None" = None
    skip_together: bool = False
    number: int = 0
    leaving: bool = False
    met: int = 0
    forced: bool = False
    all_left: bool = False

    made: ClassVar[int] = 0  # in this process

    def parts(self, parts: "Parts") -> "Parts":
        """The parts of an optimizer of these workers."""
        return parts

    def start(self, parts: Sequence["Part"], **facts: Any) -> None:
        """Refuse workers that are not alike, before anything is changed."""
        frozen = [leaf for leaf in _every(parts) if not leaf.requires_grad]
        found = {**facts, "skip_together": self.skip_together, **facts_of(parts)}
        words = self.meet("making an optimizer", found, fingerprint(frozen), float(Workers.made))
        self._refuse_odd(words, "frozen parameters", "What is frozen is not sent: load it on all.")
        self.number = Workers.made = int(max(word.work for word in words)) + 1

    def one_skips(self, parts: Sequence["Part"], skips: bool) -> bool:
        """Whether a worker skips this step: `skips` says whether this one does."""
        facts = {"the optimizer": self.number, **_counters(parts)}
        words = self.meet("a step that a GradScaler takes", facts, 0, float(skips))
        return any(word.work for word in words)

    def join(self, leaves: Mapping[int, Tensor]) -> None:
        """Give all workers the first one's of parameters that join, by their numbers.

        Raises
        ------
        ValueError
            If others do not take in the same ones; it names the difference, on every worker.
        """
        joining = {f"parameter {number}": _told(leaf) for number, leaf in leaves.items()}
        self.meet("taking in parameters", {"the optimizer": self.number, **joining})
        self.link.broadcast([leaf.detach() for leaf in leaves.values()])

    def meet(
        self, kind: str, facts: dict[str, Any], prints: int = 0, work: float = 0.0, link: Any = None
    ) -> list[Word]:
        """The words of all; ValueError, on every worker, unless all do the same with these facts.

        Of all workers, or of the processes that `link` leads to. Those that are leaving follow the
        syncs of the others, and nothing else.
        """
        link = link or self.link
        facts = {"what is done": kind, **facts}
        word = Word(KINDS.index(kind), _digest(facts), prints, work)
        words = [Word.of(row) for row in link.gathered(word.row())]
        others = [word for word in words if KINDS[word.kind] != "leaving"]
        followed = link is self.link and all(KINDS[other.kind] in SYNCS for other in others)
        if len({word.digest for word in (others if followed else words)}) > 1:
            _refuse_differences(link, link.gathered_objects(facts))
        return words

    def share(
        self,
        parts: Sequence["Part"],
        kept: Mapping[Tensor, "Kept"],
        work: float,
        kind: str = "a sync",
        **facts: Any,
    ) -> float:
        """This worker's part of the work since the last sync, once all of them are here.

        Raises
        ------
        ValueError
            If they are not at the same point, or not of the same settings; it names the
            difference, on every worker.
        RuntimeError
            If one does not come.
        """
        leaves = list(_every(parts))
        members = [kept[leaf].slow for leaf in leaves if leaf in kept]
        bits = fingerprint(members) if self.check_replicas else 0
        where = {"the optimizer": self.number, **facts}
        kind, counters = "leaving" if self.leaving else kind, _counters(parts)
        within = {**where, **_settings(parts), **counters}
        work = self._of_this_worker(kind, leaves, work, within)
        words = self.meet(kind, {**where, **facts_of(parts), **counters}, bits, work)
        edited = "Were weights loaded or edited on one of them alone?"
        self._refuse_odd(words, "slow weights", edited)
        kinds, works = [KINDS[word.kind] for word in words], [word.work for word in words]
        staying = sum(kind != "leaving" for kind in kinds)
        self.met, self.forced, self.all_left = self.met + 1, "sync()" in kinds, not staying
        if any(works):
            return work / sum(works)
        return 0.0 if self.leaving else 1 / staying

    def check_work(self, leaves: Iterable[Tensor]) -> None:
        """ValueError where nobody can tell which processes are one worker."""
        if self._groups_within(leaves) is None:
            raise ValueError(
                "work needs to know which processes are one worker, and plain parameters do not "
                "say who has copies of them: give the optimizer worker=, a group or a mesh of "
                "them (new_group([rank], use_local_synchronization=True) if it is this one alone)"
            )

    def average(self, share: float, in_buckets: bool = True) -> Mean:
        """How a sync averages, once all have met."""
        return Mean(self, share, in_buckets)

    def mean(self, differences: Leaves, share: float) -> Leaves:
        """Mean over the workers, each by its share; overwrites `differences`."""
        self.weigh(differences, share)
        self.link.sum(differences)
        return differences

    @torch.no_grad()
    def weigh(self, differences: Leaves, share: float) -> None:
        """Make of them, in place, what this worker adds to the mean."""
        if not (own := [local(leaf) for leaf in differences]):
            return
        # Not 0 * x: that of a worker that has run away is NaN.
        torch._foreach_mul_(own, share) if share else torch._foreach_zero_(own)

    def _groups_within(self, leaves: Iterable[Tensor]) -> "list[dist.ProcessGroup] | None":
        return groups_of_a_worker(leaves, self.link.group) if self.within is None else self.within

    def _of_this_worker(
        self, kind: str, leaves: Sequence[Tensor], work: float, facts: dict[str, Any]
    ) -> float:
        """The work of all processes that are this worker, or a multiple of it.

        Each may say its own or all of them the whole: shares are the same. Without it each shard
        would be averaged by shares of its own.
        """
        for group in self._groups_within(leaves) or ():
            words = self.meet(kind, facts, 0, work, self.link._replace(group=group))
            work = sum(word.work for word in words)
        return work

    def _refuse_odd(self, words: list[Word], what: str, hint: str) -> None:
        odd = [self.link.name(i) for i, w in enumerate(words) if w.prints != words[0].prints]
        if odd:
            raise ValueError(
                f"{what} must be the same on all workers, to the bit: those of {', '.join(odd)} "
                f"are not those of {self.link.name(0)}. {hint}"
            )

    def __reduce__(self) -> Any:
        raise TypeError(
            "an optimizer with a process_group cannot be pickled or copied: a group is a process' "
            "own. Save its state_dict"
        )


def workers_of(
    process_group: Any,
    timeout: Any,
    check_replicas: Any,
    worker: Any,
    skip_together: Any,
    rule: SyncRule,
    capturable: bool,
) -> "Workers | Visitors | None":
    """Workers with these settings, or ValueError; None without a group."""
    boolean("check_replicas", check_replicas, "compare the slow weights of all at each sync")
    boolean("skip_together", skip_together, "skip what the GradScaler of one worker skips")
    if timeout is not None and not (isinstance(timeout, timedelta) and timeout > timedelta()):
        raise ValueError(f"timeout must be a timedelta above zero, got {timeout!r}")
    if process_group is None:
        if worker is not None:
            raise ValueError(f"worker must be None without a process_group, got {worker!r}")
        return None
    if process_group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            f"process_group must be a group that this process is in, got one without rank "
            f"{dist.get_rank()}: make the optimizer on its ranks alone, or call new_group with all"
        )
    if not isinstance(process_group, dist.ProcessGroup | Quorum):
        raise ValueError(
            "process_group must be a torch.distributed.ProcessGroup (dist.group.WORLD for all) or "
            f"a Quorum, got {process_group!r}"
        )
    if capturable:
        raise ValueError("capturable must be False with a process_group, got True")
    check_alike(rule)
    if isinstance(process_group, Quorum):
        return visitors_of(process_group, timeout, check_replicas, worker, skip_together)
    within = None if worker is None else groups_within(worker, process_group)
    return Workers(Link(process_group, timeout), check_replicas, within, skip_together)


def visitors_of(
    quorum: Quorum, timeout: Any, check_replicas: bool, worker: Any, skip_together: bool
) -> "Visitors":
    """Workers that sync by a quorum, or ValueError."""
    from .quorum_parts import Visitors  # it needs what is here

    for name, value in (("timeout", timeout), ("worker", worker)):
        if value is not None:
            raise ValueError(
                f"{name} must be None with a Quorum (which has a timeout of its own, and workers "
                f"of one process), got {value!r}"
            )
    if skip_together:
        raise ValueError("skip_together must be False with a Quorum, whose workers do not wait")
    return Visitors(quorum, check_replicas)


def _refuse_differences(link: Link, facts: list[dict[str, Any]]) -> None:
    names = {name: None for own in facts for name in own}
    for name in names:
        values = [own.get(name, "none") for own in facts]
        if any(value != values[0] for value in values):
            told = ", ".join(f"{link.name(i)} has {v!r}" for i, v in enumerate(values))
            raise ValueError(f"{name} must be the same on all workers: {told}")


def _counters(parts: Sequence["Part"]) -> dict[str, Any]:
    """Where the cycles of `parts` are, under names that a user knows."""
    found: dict[str, Any] = {}
    for where, part in _named(parts):
        found |= {
            f"the counter{where}": part.state.count,
            f"the number of syncs{where}": part.state.syncs,
        }
    return found


def _named(parts: Sequence["Part"]) -> list[tuple[str, "Part"]]:
    """Each part, and how it is told from the others."""
    several = len(parts) > 1
    return [(f" of part {index}" if several else "", part) for index, part in enumerate(parts)]


def facts_of(parts: Sequence["Part"]) -> dict[str, Any]:
    """What must be the same on all workers, under names that a user knows."""
    facts = _settings(parts)
    for where, part in _named(parts):
        leaves = list(leaves_of(part.groups))
        facts[f"the number of parameters{where}"] = len(leaves)
        for number, leaf in enumerate(leaves):
            facts[f"parameter {number}{where}"] = _told(leaf)
        names = [name for group in part.groups for name in group.get("param_names", ())]
        facts |= {f"the name of parameter {i}{where}": name for i, name in enumerate(names)}
    return facts


def _settings(parts: Sequence["Part"]) -> dict[str, Any]:
    """The settings of the parts, with the numbers that the next sync takes from schedules."""
    return {
        f"{name}{where}": value
        for where, part in _named(parts)
        for name, value in settings(part.rule, int(part.state.syncs)).items()
    }


def _told(leaf: Tensor) -> str:
    trained = "trained" if leaf.requires_grad else "frozen"
    what = f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}, {trained}"
    return what + which_part(leaf)


def _every(parts: Sequence["Part"]) -> Iterator[Tensor]:
    return (leaf for part in parts for leaf in leaves_of(part.groups))


def _digest(facts: dict[str, Any]) -> int:
    digest = blake2b(repr(sorted(facts.items())).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _as_int(number: float) -> int:
    """The bits of a float64, to send it among integers."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def _as_float(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])
