"""A mean over those workers that come in time, through a store: no process group is needed.

A process group cannot lose a member, and every wait in it is for all. Here each worker leaves what
it has done in a `torch.distributed` store, and one of those who are there makes the mean of it. The
store takes one mean for each sync, so all workers use the same bytes. What an optimizer does with
this is quorum_parts.py.
"""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from secrets import token_hex
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookahead_core.typing import Leaves
from lookahead_core.validation import int_at_least, non_negative_int

__all__ = ["Quorum"]

POLL = 0.01  # seconds between two looks at the store
PATIENCE = 1.0  # seconds that the next worker gives one that is about to make the mean
PIECE = 1 << 22  # bytes: a TCPStore takes no value above 8 MB


class Done(NamedTuple):
    """What a worker has done since it was last part of a mean.

    Attributes
    ----------
    leaves : sequence of Tensor
        The pseudo-gradient; of several cycles their mean.
    work : float
        As in `MetaOptimizer.work`.
    cycles : int
        How many cycles it is of: more than one if the worker was late. They count where nobody
        says `work`.
    """

    leaves: Sequence[Tensor]
    work: float
    cycles: int


@dataclass(eq=False)
class Quorum:
    """Workers that come and go: each sync is of those that came within a window.

    Give it to `MetaOptimizer` in the place of a process group. A sync waits until `quorum` workers
    are there, and then for the others, but no longer than `window`. What a worker did that came
    later is part of the next mean, and the worker goes on from the weights that the others have.

    Parameters
    ----------
    store : torch.distributed.Store
        Which all workers reach, and which outlives them: a `TCPStore` whose server is a process of
        its own, or a `FileStore`.
    rank : int
        Which worker this is, from 0 on. One that is started again has the rank that it had.
    size : int
        How many workers there may be.
    quorum : int, optional
        How many a mean needs; more than half of `size` if None.
    window : datetime.timedelta
        How long to wait for the others once these are there.
    timeout : datetime.timedelta
        How long to wait for the quorum before RuntimeError is raised.
    keep : int
        How many of the last means the store keeps. A worker that is further behind needs a newer
        checkpoint; that of any worker will do.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    Each worker writes its pseudo-gradient to the store at each sync and reads the mean; one of them
    reads everybody's. The store holds one pseudo-gradient for each worker, and `keep` means.

    References
    ----------
    Douillard et al. 2026, Decoupled DiLoCo, arXiv:2604.21428: quorum and grace window.

    Examples
    --------
    One worker of two, which the other one does not join:

    >>> import torch.distributed as dist
    >>> from datetime import timedelta
    >>> from lookahead_core import diloco
    >>> from lookahead_core.adapters.torch import MetaOptimizer
    >>> store = dist.HashStore()
    >>> alone = Quorum(store, rank=0, size=2, quorum=1, window=timedelta(0))
    >>> model = torch.nn.Linear(2, 1)
    >>> inner = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> optimizer = MetaOptimizer(inner, diloco(sync_period=2), process_group=alone)
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(1, 2)).square().sum().backward()
    ...     optimizer.step()
    >>> alone.heard(1)
    [0]
    """

    store: Any
    rank: int
    size: int
    quorum: int | None = None
    window: timedelta = timedelta(seconds=1)
    timeout: timedelta = timedelta(minutes=30)
    keep: int = 8
    late: dict[str, Done] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not hasattr(self.store, "compare_set"):
            raise ValueError(f"store must be a torch.distributed.Store, got {self.store!r}")
        int_at_least(1, "size", self.size, "workers")
        if non_negative_int("rank", self.rank, "which worker this is") >= self.size:
            raise ValueError(f"rank must be below size={self.size}, got {self.rank}")
        self.quorum = self.size // 2 + 1 if self.quorum is None else self.quorum
        if int_at_least(1, "quorum", self.quorum, "workers that a mean needs") > self.size:
            raise ValueError(f"quorum must be no more than size={self.size}, got {self.quorum}")
        int_at_least(1, "keep", self.keep, "means that are kept for workers that are behind")
        for name in ("window", "timeout"):
            value = getattr(self, name)
            if not isinstance(value, timedelta) or value < timedelta():
                raise ValueError(f"{name} must be a timedelta of zero or more, got {value!r}")

    def heard(self, sync: int, part: str = "0") -> list[int]:
        """The workers that are in the mean of a sync, from 0 on; empty if there is none yet."""
        found = self._decision(part, sync)
        return [] if found is None else sorted(map(int, found["heard"]))

    # --- the mean of a sync ---

    def decided(self, sync: int, part: str = "0") -> bool:
        """Whether there is a mean of this sync."""
        return bool(self.store.check([f"{part}/decided/{sync}"]))

    def mean(
        self, differences: Leaves, sync: int, part: str = "0", work: float = 0.0, digest: str = ""
    ) -> list[Tensor]:
        """The mean of a sync, in which this worker is if it came in time.

        Raises
        ------
        RuntimeError
            If the quorum does not come within `timeout`.
        ValueError
            If the mean is of workers whose `digest` is another one.
        """
        new = Done([*differences], work, 1)
        own = combined([self.late[part], new]) if part in self.late else new
        if not self.decided(sync, part):
            self._say(part, sync, own, True, digest)
            self._wait(part, sync, digest)
        heard = self._checked(part, sync, digest)["heard"].get(str(self.rank))
        self.late.pop(part, None)
        if not heard:  # not at all, or only what it had said before it came
            self.late[part] = own if heard is None else new
        return self._taken(part, sync, differences, digest)

    def follow(
        self, differences: Leaves, sync: int, part: str = "0", digest: str = ""
    ) -> list[Tensor]:
        """The mean of a sync that there was without this worker, which has done nothing since."""
        if str(self.rank) in self._checked(part, sync, digest)["heard"]:
            self.late.pop(part, None)
        return self._taken(part, sync, differences, digest)

    def say_late(self, sync: int, part: str = "0", digest: str = "") -> None:
        """Have what came too late in the mean of this sync, even if this worker is late again."""
        if part in self.late:
            self._say(part, sync, self.late[part], False, digest)

    def come(self) -> None:
        """Say that this worker is here; the others wait for it."""
        self.store.delete_key(f"left/{self.rank}")

    def leave(self) -> None:
        """Say that this worker is done; the others do not wait for it any longer."""
        self.store.set(f"left/{self.rank}", "")

    def first(self, name: str, own: bytes) -> bytes:
        """What the first worker that came here has given; this one's if nobody was here before."""
        if not self.store.check([f"first/{name}"]):
            record = json.dumps(self._put(f"first/{name}/{self.rank}", own))
            self.store.compare_set(f"first/{name}", "", record)
        found = self._got(json.loads(self.store.get(f"first/{name}")))
        if found is None:
            raise AssertionError(f"what the first worker gave as {name} was overwritten")
        return found

    def _wait(self, part: str, sync: int, digest: str) -> None:
        """Wait for the others; make the mean if it is for this worker to do so."""
        window = self.window.total_seconds()
        waits, enough, ready = time.monotonic(), None, None
        while not self.decided(sync, part):
            here = self._here(part, sync, digest)
            now = time.monotonic()
            in_time = [rank for rank, said in here.items() if said["final"]]
            coming = sum(not self.store.check([f"left/{rank}"]) for rank in range(self.size))
            needed = min(self.quorum or 1, coming)
            if len(in_time) >= needed:
                if enough is None:  # from now on each of them may be the one to make the mean
                    enough, waits = now, now + (self.size + 1) * (PATIENCE + window)
                if len(in_time) >= coming or now >= enough + window:
                    ready = now if ready is None else ready
                    # The next one does it if the first is killed meanwhile.
                    if now >= ready + (PATIENCE + window) * in_time.index(self.rank):
                        self._decide(part, sync, here, needed)
            if now > waits + self.timeout.total_seconds():
                raise RuntimeError(
                    f"worker {self.rank} waited for the others at sync {sync}, and no quorum of "
                    f"{needed} came within timeout={self.timeout}: there are {in_time}"
                )
            time.sleep(POLL)

    def _here(self, part: str, sync: int, digest: str) -> dict[int, dict[str, Any]]:
        """What workers have said of this sync, by rank."""
        found = {}
        for rank in range(self.size):
            key = f"{part}/said/{rank}"
            said = json.loads(self.store.get(key)) if self.store.check([key]) else {}
            if said.get("sync") == sync and said["digest"] == digest:
                found[rank] = said
        return found

    def _decide(self, part: str, sync: int, here: dict[int, dict[str, Any]], needed: int) -> None:
        """Make the mean; it is that of the sync unless another worker was faster."""
        # Of a worker that is saying more just now, or was killed while it did, there is nothing.
        written = {rank: self._got(said) for rank, said in here.items()}
        heard = {rank: here[rank]["final"] for rank, own in written.items() if own is not None}
        if sum(heard.values()) < needed:
            return
        everything = [
            Done(unpacked(own), here[rank]["work"], here[rank]["cycles"])
            for rank, own in written.items()
            if own is not None
        ]
        place = f"{part}/mean/{sync % self.keep}/{self.rank}"
        record = self._put(place, packed(combined(everything).leaves))
        record |= {"heard": heard, "digest": here[self.rank]["digest"]}
        self.store.compare_set(f"{part}/decided/{sync}", "", json.dumps(record))

    def _say(self, part: str, sync: int, own: Done, final: bool, digest: str) -> None:
        place = f"{part}/done/{self.rank}"
        said: dict[str, Any] = {"sync": sync, "final": final}
        said |= {"work": own.work, "cycles": own.cycles}
        said |= {"digest": digest, **self._put(place, packed(own.leaves))}
        self.store.set(f"{part}/said/{self.rank}", json.dumps(said))

    def _decision(self, part: str, sync: int) -> dict[str, Any] | None:
        if not self.decided(sync, part):
            return None
        found: dict[str, Any] = json.loads(self.store.get(f"{part}/decided/{sync}"))
        return found

    def _checked(self, part: str, sync: int, digest: str) -> dict[str, Any]:
        """The decision, or ValueError."""
        found = self._decision(part, sync)
        if found is None or found["digest"] != digest:
            raise ValueError(
                f"settings and slow weights must be those of the others: worker {self.rank} has "
                f"other ones at sync {sync} than the workers that made the mean"
            )
        return found

    def _taken(self, part: str, sync: int, like: Leaves, digest: str) -> list[Tensor]:
        written = self._got(self._checked(part, sync, digest))
        if written is None:
            raise RuntimeError(
                f"worker {self.rank} is at sync {sync}, of which the store has no mean any longer "
                f"(keep={self.keep}): load a newer checkpoint; that of any worker will do"
            )
        pairs = zip(unpacked(written), like, strict=True)
        return [mean.to(own.device) for mean, own in pairs]

    # --- many bytes in a store ---

    def _put(self, place: str, written: bytes) -> dict[str, Any]:
        """Write them in pieces, and say where; what was there before is overwritten."""
        tag, pieces = token_hex(8), range(0, len(written), PIECE)
        for number, begin in enumerate(pieces):
            piece: Any = tag.encode() + written[begin : begin + PIECE]
            self.store.set(f"{place}/{number}", piece)
        return {"place": place, "tag": tag, "pieces": len(pieces)}

    def _got(self, record: dict[str, Any]) -> bytes | None:
        """The bytes again; None if they have been overwritten."""
        found, tag = [], record["tag"].encode()
        for number in range(record["pieces"]):
            piece = self.store.get(f"{record['place']}/{number}")
            if not piece.startswith(tag):
                return None
            found.append(piece[len(tag) :])
        return b"".join(found)


@torch.no_grad()
def combined(everything: Sequence[Done]) -> Done:
    """All of it as one: a mean by `work`, or by cycles if nobody has said any."""
    works, cycles = [done.work for done in everything], [done.cycles for done in everything]
    weights = works if any(works) else cycles
    heard = [(done, weight) for done, weight in zip(everything, weights, strict=True) if weight]
    total = sum(weights)
    means = [torch.zeros_like(leaf) for leaf in everything[0].leaves]
    for done, weight in heard:  # not 0 * x: that of a worker that has run away is NaN
        for mean, leaf in zip(means, done.leaves, strict=True):
            mean.add_(leaf, alpha=weight / total)
    return Done(means, sum(works), sum(cycles))


def packed(leaves: Sequence[Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save([leaf.detach().cpu() for leaf in leaves], file)
    return file.getvalue()


def unpacked(written: bytes) -> list[Tensor]:
    found: list[Tensor] = torch.load(io.BytesIO(written), weights_only=True)
    return found
