"""Many workers in the torch adapter: they agree, weigh their work, and average what they did.

What the mean is of, and what an outer rule sees of it, is lookahead_core's; how it travels is
collectives.py.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from lookahead_core import SyncRule
from lookahead_core.checkpoint import settings
from lookahead_core.typing import Leaves
from lookahead_core.validation import boolean
from lookahead_core.workers import check_alike

from .._groups import leaves_of
from .collectives import Link, fingerprint, local
from .shards import groups_of_a_worker, which_part

if TYPE_CHECKING:
    from .._leaves import Kept
    from .._parts import Part

__all__ = ["Workers", "workers_of"]


@dataclass(eq=False)
class Workers:
    """Those that sync together: each has the same slow weights and fast weights of its own.

    Attributes
    ----------
    link : Link
        To the others.
    check_replicas : bool
        Whether each sync compares the slow weights of all, bit for bit.
    """

    link: Link
    check_replicas: bool = False

    def start(self, parts: Sequence["Part"], **facts: Any) -> None:
        """Refuse workers that are not alike, and give all of them the first one's weights."""
        self.agree({**facts, **_facts(parts)})
        self.broadcast([leaf for part in parts for leaf in leaves_of(part.groups)])

    def agree(self, facts: dict[str, Any]) -> None:
        """ValueError, on every worker, unless the facts are the same on all of them."""
        self._refuse_differences(self.link.gathered_objects(facts))

    def broadcast(self, leaves: Sequence[Tensor]) -> None:
        """Give all workers the first one's, as DistributedDataParallel does."""
        self.link.broadcast([leaf.detach() for leaf in leaves])

    def share(
        self, parts: Sequence["Part"], kept: Mapping[Tensor, "Kept"], work: float, **facts: Any
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
        found = {**facts, **_counters(parts), **_facts(parts)}
        leaves = [leaf for part in parts for leaf in leaves_of(part.groups)]
        members = [kept[leaf].slow for leaf in leaves if leaf in kept]
        bits = fingerprint(members) if self.check_replicas else 0
        work = self._of_this_worker(leaves, work)
        all_of_them = self.link.gathered([_digest(found), bits, _as_int(work)])
        if len({digest for digest, _, _ in all_of_them}) > 1:
            self.agree(found)
        if len({prints for _, prints, _ in all_of_them}) > 1:
            odd = [
                self.link.name(i)
                for i, (_, p, _) in enumerate(all_of_them)
                if p != all_of_them[0][1]
            ]
            raise ValueError(
                f"slow weights must be the same on all workers, to the bit: those of "
                f"{', '.join(odd)} are not those of {self.link.name(0)}. Were weights loaded or "
                "edited on one of them alone?"
            )
        works = [_as_float(bits) for _, _, bits in all_of_them]
        return work / sum(works) if any(works) else 1 / self.link.size

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

    def _of_this_worker(self, leaves: Sequence[Tensor], work: float) -> float:
        """The work of all processes that hold shards of this worker, or a multiple of it.

        Each may say its own or all of them the whole: shares are the same. Without it each shard
        would be averaged by shares of its own.
        """
        for group in groups_of_a_worker(leaves, self.link.group):
            work = self.link._replace(group=group).total(work)
        return work

    def _refuse_differences(self, facts: list[dict[str, Any]]) -> None:
        names = {name: None for own in facts for name in own}
        for name in names:
            values = [own.get(name, "none") for own in facts]
            if any(value != values[0] for value in values):
                told = ", ".join(f"{self.link.name(i)} has {v!r}" for i, v in enumerate(values))
                raise ValueError(f"{name} must be the same on all workers: {told}")

    def __reduce__(self) -> Any:
        raise TypeError(
            "an optimizer with a process_group cannot be pickled or copied: a group is a process' "
            "own. Save its state_dict"
        )


def workers_of(
    process_group: Any, timeout: Any, check_replicas: Any, rule: SyncRule, capturable: bool
) -> Workers | None:
    """Workers with these settings, or ValueError; None without a group."""
    boolean("check_replicas", check_replicas, "compare the slow weights of all at each sync")
    if timeout is not None and not (isinstance(timeout, timedelta) and timeout > timedelta()):
        raise ValueError(f"timeout must be a timedelta above zero, got {timeout!r}")
    if process_group is None:
        return None
    if process_group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            f"process_group must be a group that this process is in, got one without rank "
            f"{dist.get_rank()}: make the optimizer on its ranks alone, or call new_group with all"
        )
    if not isinstance(process_group, dist.ProcessGroup):
        raise ValueError(
            "process_group must be a torch.distributed.ProcessGroup (dist.group.WORLD for all), "
            f"got {process_group!r}"
        )
    if capturable:
        raise ValueError("capturable must be False with a process_group, got True")
    check_alike(rule)
    return Workers(Link(process_group, timeout), check_replicas)


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


def _facts(parts: Sequence["Part"]) -> dict[str, Any]:
    """What must be the same on all workers, under names that a user knows."""
    facts: dict[str, Any] = {}
    for where, part in _named(parts):
        facts |= {f"{name}{where}": value for name, value in settings(part.rule).items()}
        leaves = list(leaves_of(part.groups))
        facts[f"the number of parameters{where}"] = len(leaves)
        for number, leaf in enumerate(leaves):
            trained = "trained" if leaf.requires_grad else "frozen"
            what = f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}, {trained}"
            what += which_part(leaf)
            facts[f"parameter {number}{where}"] = what
    return facts


def _digest(facts: dict[str, Any]) -> int:
    digest = blake2b(repr(sorted(facts.items())).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _as_int(number: float) -> int:
    """The bits of a float64, to send it among integers."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def _as_float(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])
