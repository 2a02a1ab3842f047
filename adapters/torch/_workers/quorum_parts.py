"""An optimizer whose workers come and go: each part syncs by the mean that a `Quorum` has.

How the mean comes about is quorum.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from hashlib import blake2b
from typing import Any, ClassVar

import torch
from torch import Tensor

from lookahead_core.checkpoint import settings
from lookahead_core.typing import Leaves
from lookahead_core.workers import Average

from .._groups import leaves_of
from .._parts import Part, Parts
from .collectives import fingerprint
from .quorum import Quorum, packed, unpacked
from .workers import facts_of

__all__ = ["QuorumParts", "Visitors"]


@dataclass(eq=False)
class Visitors:
    """Workers that sync by a quorum, in the place of `Workers`.

    Attributes
    ----------
    quorum : Quorum
        How they meet.
    check_replicas : bool
        Whether a worker compares its slow weights with those of the mean, bit for bit.
    sync : int
        Syncs before the cycle that a worker is in.
    """

    quorum: Quorum
    check_replicas: bool = False
    sync: int = 0

    # A worker that is done need not follow the others.
    leaving: ClassVar[bool] = False
    forced: ClassVar[bool] = False
    all_left: ClassVar[bool] = False
    skip_together: ClassVar[bool] = False

    def parts(self, parts: Parts) -> "QuorumParts":
        """The parts of an optimizer of these workers."""
        return QuorumParts.of(parts)

    @property
    def link(self) -> Any:
        raise RuntimeError(
            "Join needs a process group: with a Quorum call leave() after the last step"
        )

    def start(self, parts: Sequence[Part], **facts: Any) -> None:
        """Refuse a worker that is not as the first one was, before anything is changed."""
        if facts["buffers"]:
            raise ValueError(
                "buffers must be None with a Quorum, which averages parameters alone, got "
                f"{facts['buffers']}"
            )
        leaves = [leaf for part in parts for leaf in leaves_of(part.groups)]
        if any(hasattr(leaf, "placements") for leaf in leaves):
            raise ValueError(
                "process_group must be a ProcessGroup where parameters are sharded: with a Quorum "
                "each worker is one process"
            )
        frozen = fingerprint([leaf for leaf in leaves if not leaf.requires_grad])
        facts |= {**facts_of(parts), "the fingerprint of frozen parameters": frozen}
        own = {name: repr(value) for name, value in facts.items()}
        first = json.loads(self.quorum.first("facts", json.dumps(own).encode()))
        for name in {**first, **own}:
            theirs, ours = first.get(name, "none"), own.get(name, "none")
            if theirs != ours:
                raise ValueError(
                    f"{name} must be the same on all workers: the first one has {theirs}, worker "
                    f"{self.quorum.rank} has {ours}"
                )
        self.quorum.come()

    @torch.no_grad()
    def join(self, leaves: Mapping[int, Tensor]) -> None:
        """Give all workers those of parameters that join which the first one to come here has."""
        name = f"parameters/{self.sync}/{digest_of([*leaves])}"
        given = unpacked(self.quorum.first(name, packed([*leaves.values()])))
        for leaf, first in zip(leaves.values(), given, strict=True):
            leaf.copy_(first)

    def check_work(self, leaves: Iterable[Tensor]) -> None:
        """Nothing to refuse: each worker is one process."""

    def __reduce__(self) -> Any:
        raise TypeError(
            "an optimizer with a Quorum cannot be pickled or copied: a store is a process' own. "
            "Save its state_dict"
        )


@dataclass(eq=False)
class QuorumParts(Parts):
    """The parts of a `MetaOptimizer` with a `Quorum`.

    Attributes
    ----------
    done : float
        The `work` of the cycle that ends.
    """

    done: float = 0.0

    @classmethod
    def of(cls, parts: Parts) -> "QuorumParts":
        """The same, with a quorum; before the first step."""
        return cls(**{own.name: getattr(parts, own.name) for own in fields(parts)})

    def meet(self, parts: list[Part], **facts: Any) -> Average | None:
        """Nobody is waited for before the mean itself."""
        self.done = self.work
        return None

    def sync(self, part: Part, average: Average | Leaves | None = None) -> None:
        """Sync by the mean of those who are there, or of those who were."""
        mean = partial(self.workers.quorum.mean, work=self.done, **self._where(part))
        super().sync(part, mean)
        self.catch_up([part])

    def catch_up(self, parts: Iterable[Part]) -> bool:
        """Between two cycles: take in all syncs that there were without this worker."""
        quorum, before = self.workers.quorum, [int(part.state.syncs) for part in self.parts]
        for part in parts:
            while quorum.decided(part.state.syncs, str(self.parts.index(part))):
                self.begin([part])
                super().sync(part, partial(quorum.follow, **self._where(part)))
            quorum.say_late(**self._where(part))
            self.workers.sync = part.state.syncs
        return before != [part.state.syncs for part in self.parts]

    def _where(self, part: Part) -> dict[str, Any]:
        """Which mean that of the next sync of a part is, and what all in it must agree on."""
        sync = int(part.state.syncs)
        alike: list[Any] = [sorted(settings(part.rule, sync).items())]
        if self.workers.check_replicas:
            alike.append(fingerprint([self.kept[leaf].slow for leaf in part.members]))
        return {"sync": sync, "part": str(self.parts.index(part)), "digest": digest_of(alike)}


def digest_of(facts: list[Any]) -> str:
    return blake2b(repr(facts).encode(), digest_size=8).hexdigest()
