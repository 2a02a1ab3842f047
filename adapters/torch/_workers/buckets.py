"""A sync in buckets: some numbers of a model are on their way while others are synced.

So it needs room for the buckets under way alone, and not for another copy of the model: on a CPU,
memory that is new to a process costs more time than all arithmetic of a sync. For outer rules that
move each number by itself.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lookahead_core import SyncRule, SyncState
from lookahead_core.typing import Leaves

from .._kernels.lists import Row, is_plain, part_here
from .._leaves import assign
from .collectives import UnderWay

if TYPE_CHECKING:
    from .workers import Workers

__all__ = ["Mean"]

# So many buckets are a model, because each waits once for all hops of a network; and none is
# smaller than that, because on a fast network smaller messages take longer in all.
BUCKETS, SMALLEST = 16, 1 << 20
# gloo has two threads for messages: one more is there for the thread that is free first.
AT_ONCE = 3


class Sent(NamedTuple):
    """A bucket on its way.

    Attributes
    ----------
    rows : list of Row
        Its numbers: fast weights, slow weights, and what the outer rule keeps.
    flat : Tensor
        What is sent of them; the mean, once it is there.
    under_way : list
        What is to be waited for.
    """

    rows: list[Row]
    flat: Tensor
    under_way: UnderWay

    def views(self) -> list[Tensor]:
        """What is sent, row by row."""
        return [*torch.split(self.flat, [row[0].numel() for row in self.rows])]


class Mean(NamedTuple):
    """How a sync averages over the workers.

    Attributes
    ----------
    workers : Workers
        Those who are here.
    share : float
        This worker's part of the mean.
    in_buckets : bool
        Whether it may take some numbers after the others.
    """

    workers: "Workers"
    share: float
    in_buckets: bool = True

    def __call__(self, differences: Leaves) -> Leaves:
        """The means, all at once; overwrites `differences`."""
        return self.workers.mean(differences, self.share)

    @torch.no_grad()
    def sync(
        self, rule: SyncRule, fast: Leaves, inner: Leaves, state: SyncState, **options: Any
    ) -> tuple[Leaves, Leaves, SyncState]:
        """As that of `rule`: bucket after bucket, in place, and the inner state at the end."""
        if not (self.in_buckets and rule.numberwise and _fit(fast, state)):
            return rule.sync(fast, inner, state, average=self, **options)
        none = state._replace(slow=(), outer=[()] * len(state.outer), inner_slow=())
        rows = list(zip(fast, state.slow, *state.outer, strict=True))
        flat = [tuple(map(_flat, row)) for row in rows]
        for sent in self._arrived(buckets(flat)):
            fasts, slows, *slots = zip(*sent.rows, strict=True)
            given = none._replace(slow=slows, outer=slots)
            kernel = options["kernel"]
            moved, _, after = rule.sync(fasts, (), given, average=sent.views(), kernel=kernel)
            for own, new in zip(
                (fasts, slows, *slots), (moved, after.slow, *after.outer), strict=True
            ):
                assign(own, new)
        for leaf, whole in zip(chain(*rows), chain(*flat), strict=True):
            if whole.data_ptr() != part_here(leaf).data_ptr():
                part_here(leaf).copy_(whole.view(leaf.shape))
        given = none._replace(inner_slow=state.inner_slow)
        _, inner, after = rule.sync((), inner, given, average=(), **options)
        return fast, inner, after._replace(slow=state.slow, outer=state.outer)

    def _arrived(self, every: Iterable[list[Row]]) -> Iterator[Sent]:
        """Each bucket with its mean, while the next ones are on their way."""
        link, under_way = self.workers.link, deque[Sent]()
        for rows in every:
            room = None
            if len(under_way) == AT_ONCE:
                sent = under_way.popleft()
                link.finish(sent.under_way)
                yield sent
                room = sent.flat
            under_way.append(self._sent(rows, room))
        for sent in under_way:
            link.finish(sent.under_way)
            yield sent

    def _sent(self, rows: list[Row], room: Tensor | None) -> Sent:
        """Start the mean of what this worker has done to these, in `room` if that is alike."""
        slow, size = rows[0][1], sum(row[0].numel() for row in rows)
        dtype = torch.promote_types(slow.dtype, torch.float32)
        if room is None or (room.dtype, room.device) != (dtype, slow.device) or len(room) < size:
            room = slow.new_empty(size, dtype=dtype)
        sent = Sent(rows, room[:size], [])
        for difference, (fast, slow, *_) in zip(sent.views(), rows, strict=True):
            torch.sub(slow.to(dtype), fast, out=difference)
        self.workers.weigh([sent.flat], self.share)
        return sent._replace(under_way=self.workers.link.start_sum([sent.flat]))


def buckets(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows, by the dtype and the device of their slow weights, cut into buckets of one size."""
    kinds: dict[Any, list[Row]] = {}
    for row in rows:
        kinds.setdefault((row[1].dtype, row[1].device), []).append(row)
    numbers = sum(row[0].numel() for row in rows)
    size = max(SMALLEST, -(-numbers // BUCKETS))
    for own in kinds.values():
        yield from _cut(own, size)


def _cut(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    bucket: list[Row] = []
    room = size
    for row in rows:
        begin, end = 0, row[0].numel()
        while begin < end:
            most = min(begin + room, end)
            bucket.append(tuple(leaf[begin:most] for leaf in row))
            room -= most - begin
            begin = most
            if not room:
                yield bucket
                bucket, room = [], size
    if bucket:
        yield bucket


def _fit(fast: Leaves, state: SyncState) -> bool:
    """Whether they can be cut, and what is written of one is not read of another."""
    leaves = [part_here(leaf) for own in (fast, state.slow, *state.outer) for leaf in own]
    return all(map(is_plain, leaves)) and _apart(leaves[: len(fast)])


def _apart(leaves: Iterable[Tensor]) -> bool:
    """Whether no two of them share memory."""
    found = []
    for leaf in filter(Tensor.numel, leaves):
        last = sum((n - 1) * step for n, step in zip(leaf.shape, leaf.stride(), strict=True))
        found.append((leaf.data_ptr(), leaf.data_ptr() + (1 + last) * leaf.itemsize))
    found.sort()
    return all(end <= begin for (_, end), (begin, _) in pairwise(found))


def _flat(leaf: Tensor) -> Tensor:
    """Its numbers here in one dimension: a view, or a copy where that is not possible."""
    return part_here(leaf).detach().reshape(-1)
